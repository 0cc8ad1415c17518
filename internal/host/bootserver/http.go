package bootserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// Limits of HTTP connections, against slow and hostile clients.
const (
	headTime  = 10 * time.Second // to receive the header of a request
	idleTime  = 30 * time.Second // to receive a whole request, and between two
	maxHeader = 8 << 10          // size of a header in bytes
)

// serveHTTP answers on a listener until ctx ends. http.Server has no limit on the
// time to write an answer here: the connections of l have one.
func (s *Server) serveHTTP(ctx context.Context, l *boundedListener, handler http.Handler) error {
	h := &http.Server{Handler: handler, ReadHeaderTimeout: headTime, ReadTimeout: idleTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ErrorLog: log.New(errorLog{s}, "", 0)}
	defer context.AfterFunc(ctx, func() { h.Close() })()
	if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// errorLog writes the errors of net/http to the log of the server.
type errorLog struct{ s *Server }

// Write implements io.Writer.
func (l errorLog) Write(b []byte) (int, error) {
	l.s.log(slog.LevelWarn, "http", "serving a connection failed", "err", strings.TrimSpace(string(b)))
	return len(b), nil
}

// Plane returns the boot plane, the HTTP interface for nodes that boot.
func (s *Server) Plane() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.answer(w, r); err != nil {
			s.log(slog.LevelWarn, "http", "refused a request", "client", r.RemoteAddr, "path", r.URL.Path, "err", err)
		}
	})
}

// refuse answers with an error as a line of text, and a line for each hint.
func refuse(w http.ResponseWriter, status int, err error) error {
	text := err.Error() + "\n"
	for _, h := range hint.Of(err) {
		text += node.Hint(h) + "\n"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	io.WriteString(w, text)
	return err
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) error {
	q, err := bootapi.DecodeRequest(r.URL.Path, r.URL.RawQuery)
	if err != nil {
		return refuse(w, http.StatusNotFound, err)
	}
	if post := q.Kind == bootapi.Progress; post != (r.Method == http.MethodPost) || !post && r.Method != http.MethodGet {
		return refuse(w, http.StatusMethodNotAllowed, fmt.Errorf("method %s not allowed", r.Method))
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return refuse(w, http.StatusBadRequest, err)
	}
	client := from.Addr().Unmap()
	img := s.Images.built(q.Build)
	if img == nil && q.Kind != bootapi.Current {
		return refuse(w, http.StatusNotFound, fmt.Errorf("build %s is no longer served: restart", q.Build))
	}
	switch q.Kind {
	case bootapi.Manifest:
		return send(w, img.Text)
	case bootapi.Signature:
		signature, err := img.Signature.Encode()
		if err != nil {
			return err
		}
		return send(w, signature)
	case bootapi.Blob:
		return blob(img, w, r, q.Digest)
	case bootapi.Config:
		return s.config(w, q.Machine, client)
	case bootapi.Current:
		mac := s.MACOf(client)
		if mac == "" {
			return refuse(w, http.StatusForbidden, errNoMAC)
		}
		m := s.machine(Machine{Serial: short(q.Serial), MAC: mac})
		h := s.health(m)
		want, held := s.imageFor(m)
		s.mu.Lock()
		s.holds(s.nodes.find(m), held)
		s.mu.Unlock()
		if want == nil {
			return refuse(w, http.StatusNotFound, errors.New("the image of this node is not available"))
		}
		good := img != nil && img.Digest == h.Good
		return send(w, bootapi.Wanted{Build: want.BuildID, Release: want.Release, Good: good, Kubernetes: want.Kubernetes}.Encode())
	}
	return s.progress(w, r, q.Machine, client, img)
}

func send(w http.ResponseWriter, b []byte) error {
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, err := w.Write(b)
	return err
}

// blob sends a file of the image, or a range of it. The files hold no secrets:
// they are those of the published image.
func blob(i *image.Image, w http.ResponseWriter, r *http.Request, digest string) error {
	for _, f := range i.Files {
		if f.Digest != digest {
			continue
		}
		file, err := openFile(i, f)
		if err != nil {
			return refuse(w, http.StatusInternalServerError, err)
		}
		defer file.Close()
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("ETag", `"`+digest+`"`)
		http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(file, 0, f.Size))
		return nil
	}
	return refuse(w, http.StatusNotFound, fmt.Errorf("%s not found in %s %s", digest, i.Stream, i.Release))
}

// config sends a node its config if claim allows that.
func (s *Server) config(w http.ResponseWriter, m bootapi.Machine, client netip.Addr) error {
	err := s.claim(m, client)
	s.mu.Lock()
	if err == nil {
		s.counts.configs++
	} else {
		s.counts.refused++
	}
	s.mu.Unlock()
	if err != nil {
		return refuse(w, http.StatusForbidden, err)
	}
	text, err := s.Roster.Config(s.machine(Machine{Serial: short(m.Serial), MAC: m.MAC}))
	if err != nil {
		return refuse(w, http.StatusInternalServerError, err)
	}
	if text == nil {
		return refuse(w, http.StatusNotFound, errors.New("no config for this node"))
	}
	s.log(slog.LevelInfo, "config", "sent a node config", "serial", short(m.Serial), "mac", m.MAC, "client", client)
	return send(w, text)
}

// progress records the boot stage that a node reports. Reports are accepted only
// from the address to which the boot was served.
func (s *Server) progress(w http.ResponseWriter, r *http.Request, m bootapi.Machine, client netip.Addr, img *image.Image) error {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bootapi.MaxReport))
	if err != nil {
		return refuse(w, http.StatusRequestEntityTooLarge, err)
	}
	report, err := bootapi.DecodeReport(b)
	if err != nil {
		return refuse(w, http.StatusBadRequest, err)
	}
	machine := Machine{Serial: short(m.Serial), MAC: s.MACOf(client)}
	s.mu.Lock()
	n := s.nodes.find(machine)
	known := n != nil && n.Serial == machine.Serial && n.build == m.Build && s.standing(n.Machine) > stranger
	if known {
		s.done(n.MAC) // its firmware has no more to fetch
		n.Stage, n.Last = string(report.Stage), s.Now()
		n.Release, n.Error = Printable(report.Release, maxRelease), Printable(report.Error, maxError)
	}
	s.mu.Unlock()
	if !known {
		return refuse(w, http.StatusForbidden, errors.New("no boot of this node was served to this address"))
	}
	verdict := func(h Health) Health { return h.healthy(img.Digest) }
	switch report.Stage {
	case bootapi.Unhealthy:
		verdict = func(h Health) Health { return h.unhealthy(img.Digest) }
		fallthrough
	case bootapi.Healthy:
		s.note(machine, func(h Health) Health {
			h = verdict(h)
			h.APIServer = cmp.Or(report.APIServer, h.APIServer)
			return h
		})
	}
	level := slog.LevelInfo
	if report.Error != "" {
		level = slog.LevelWarn
	}
	s.log(level, "node", "a node reports its stage", "serial", short(m.Serial), "client", client, "stage", report.Stage, "release",
		report.Release, "err", report.Error)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
