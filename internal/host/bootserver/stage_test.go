package bootserver

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/host/bootserver/tftp"
	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// some is a roster of one machine.
type some struct{ mac string }

func (s some) Known(m Machine) (string, bool) {
	return s.mac, m.Serial == "52617370" || s.mac != "" && m.MAC == s.mac
}

func (s some) Ending(digits string) (string, bool) {
	return piSerial, strings.HasSuffix(piSerial, digits)
}

func (s some) Config(m Machine) ([]byte, error) {
	return []byte("hostname: attic\nseed: \"" + m.Serial + "\"\n"), nil
}

func (s some) Reference(Machine) string { return "" }

const (
	piMAC    = "d8:3a:dd:01:02:03"
	otherMAC = "d8:3a:dd:0a:0b:0c"
)

// stage is a server without a network, and a clock of its own.
type stage struct {
	*Server
	t      *testing.T
	now    time.Time
	macs   map[netip.Addr]string
	files  map[string][]byte
	logged []string
}

// logLines is a log that writes texts as they are, which other handlers escape.
type logLines struct {
	to   *[]string
	kind string
}

func (l logLines) Enabled(context.Context, slog.Level) bool { return true }

func (l logLines) Handle(_ context.Context, r slog.Record) error {
	line := l.kind + r.Message
	r.Attrs(func(a slog.Attr) bool {
		line += " " + a.Key + "=" + a.Value.String()
		return true
	})
	*l.to = append(*l.to, line)
	return nil
}

func (l logLines) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logLines{l.to, attrs[0].Value.String() + ": "}
}

func (l logLines) WithGroup(string) slog.Handler { return l }

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, now: time.Unix(1700000000, 0), macs: map[netip.Addr]string{piIP: piMAC, otherIP: otherMAC}, files: map[string][]byte{
		"config.txt": []byte("arm_64bit=1\n"), "cmdline-a.txt": []byte("pikelet.slot=a\n"), "cmdline-net.txt": []byte("pikelet.slot=net\n"),
		"vmlinuz": bytes.Repeat([]byte("kernel "), 1000), "initramfs": bytes.Repeat([]byte("init "), 1000),
		"root.squashfs": bytes.Repeat([]byte("root "), 50000),
		"bootcode.bin":  []byte("first stage"), "overlays/x.dtbo": []byte("an overlay"), "pieeprom.upd": []byte("poison"),
		"overlays/recovery.bin": []byte("poison"),
	}}
	dir := t.TempDir()
	m := &image.Manifest{Stream: "small", Release: "1.2", BuildID: "build1"}
	for name, b := range s.files {
		f := image.File{Name: name, Size: int64(len(b)), Digest: image.DigestOf(b)}
		m.Files = append(m.Files, f)
		if err := os.WriteFile(filepath.Join(dir, strings.TrimPrefix(f.Digest, "sha256:")), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.Server = &Server{
		Reference: "stable", Images: &Images{}, Health: &Records[Health]{Dir: t.TempDir()},
		Roster: some{}, IP: netip.MustParseAddr("10.0.0.1"), Port: bootapi.Port,
		Now: func() time.Time { return s.now }, MACOf: func(a netip.Addr) string { return s.macs[a] }, Log: slog.New(logLines{&s.logged, ""}),
	}
	s.Images.Set("stable", &image.Image{Manifest: m, Text: []byte("the manifest"),
		Signature: image.Signature{Manifest: []byte("what was signed")}, Digest: "sha256:first", Source: image.Blobs(dir)})
	return s
}

// fetch is what a client of TFTP gets, or the error it is told.
func (s *stage) fetch(client netip.Addr, name string) (string, error) {
	f, size, err := s.open(client, name)
	x := tftp.Transfer{Client: client, Name: name, Size: size, Err: err}
	if err == nil {
		defer f.Close()
		b := make([]byte, size)
		if _, err := f.ReadAt(b, 0); err != nil {
			s.t.Fatal(err)
		}
		x.Sent = size
		s.sent(x)
		return string(b), nil
	}
	s.sent(x)
	return "", err
}

// boots has the Pi's firmware fetch what it needs.
func (s *stage) boots() {
	s.t.Helper()
	s.now = s.now.Add(5 * time.Minute)
	for _, name := range []string{"config.txt", "vmlinuz", "initramfs", "cmdline.txt"} {
		if _, err := s.fetch(piIP, "52617370/"+name); err != nil {
			s.t.Fatal(name, err)
		}
	}
}

var pi = bootapi.Machine{Serial: "1000000052617370", MAC: piMAC, Build: "build1"}

// asks is what the boot plane answers.
func (s *stage) asks(from netip.Addr, q bootapi.Request, head ...string) (int, string) {
	s.t.Helper()
	if q.Kind == bootapi.Progress {
		return s.post(from, q, string(bootapi.Report{Stage: bootapi.Started, Release: "1.2"}.Encode()))
	}
	return s.does(http.MethodGet, from, q, "", head...)
}

func (s *stage) post(from netip.Addr, q bootapi.Request, body string) (int, string) {
	s.t.Helper()
	return s.does(http.MethodPost, from, q, body)
}

func (s *stage) does(method string, from netip.Addr, q bootapi.Request, body string, head ...string) (int, string) {
	s.t.Helper()
	r := httptest.NewRequest(method, q.Encode(), strings.NewReader(body))
	r.RemoteAddr = netip.AddrPortFrom(from, 40000).String()
	for i := 0; i+1 < len(head); i += 2 {
		r.Header.Set(head[i], head[i+1])
	}
	w := httptest.NewRecorder()
	s.Plane().ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

var (
	piIP    = netip.MustParseAddr("10.0.0.50")
	otherIP = netip.MustParseAddr("10.0.0.66")
)

// configOf asks for the config of the Pi, with a hardware address.
func configOf(mac string) bootapi.Request {
	m := pi
	m.MAC = mac
	return bootapi.Request{Kind: bootapi.Config, Machine: m}
}
