package bootserver

import (
	"context"
	"crypto/subtle"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// Admin is the administration interface of a server: the machines with their boot
// stages, metrics, and adoption. It has a listener of its own, apart from the boot
// plane, which every machine of the network reaches.
type Admin struct {
	Server *Server
	// Token must come with every request, as a bearer token or as the password
	// of Basic authentication; "" requires none, and is for loopback only.
	Token string
	// Adopt adopts a machine, known by serial and hardware address; as is the
	// entry of the inventory that the machine becomes, "" for none.
	Adopt func(m Machine, as string) error
	// Free returns the names of entries that no machine has yet.
	Free func() []string
}

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"ago": func(now, then time.Time) string { return now.Sub(then).Round(time.Second).String() },
}).Parse(pageText))

// Handler returns the admin's pages.
func (a *Admin) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.page)
	mux.HandleFunc("GET /nodes", a.nodes)
	mux.Handle("GET /metrics", a.metrics())
	mux.HandleFunc("POST /adopt", a.adopt)
	// Pages of other origins must not adopt machines through a browser here.
	return a.guarded(http.NewCrossOriginProtection().Handler(mux))
}

// guarded passes on requests with the token. Without a token, requests must name
// this machine as their host: by a name that resolves to 127.0.0.1, a page of
// another origin could otherwise read the answers in a browser (DNS rebinding).
func (a *Admin) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'")
		if a.Token == "" {
			if !loopback(r.Host) {
				refuse(w, http.StatusForbidden, fmt.Errorf("unknown host %q", r.Host))
				return
			}
			next.ServeHTTP(w, r)
			return
		}
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok {
			_, token, _ = r.BasicAuth()
		}
		if subtle.ConstantTimeCompare([]byte(token), []byte(a.Token)) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="boot server: any name, and the token"`)
			refuse(w, http.StatusUnauthorized, errors.New("missing or invalid token"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (a *Admin) page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	err := page.Execute(w, map[string]any{
		"Served": a.Server.Images.Served(), "Nodes": a.Server.Nodes(), "Now": a.Server.Now(), "Free": a.Free(),
	})
	if err != nil {
		a.Server.log(slog.LevelWarn, "http", "writing the page failed", "err", err)
	}
}

func (a *Admin) nodes(w http.ResponseWriter, _ *http.Request) {
	list := a.Server.Nodes()
	if list == nil {
		list = []Node{}
	}
	b, err := json.MarshalIndent(list, "", " ")
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	send(w, append(b, '\n'))
}

func (a *Admin) adopt(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	m, as := Machine{Serial: r.PostFormValue("serial"), MAC: r.PostFormValue("mac")}, r.PostFormValue("as")
	switch {
	case !serialForm.MatchString(m.Serial):
		refuse(w, http.StatusBadRequest, fmt.Errorf("invalid serial %q: want eight hexadecimal digits in lower case", m.Serial))
		return
	case !macForm.MatchString(m.MAC):
		refuse(w, http.StatusBadRequest, fmt.Errorf("invalid hardware address %q: want the one shown beside the serial", m.MAC))
		return
	}
	if err := a.Adopt(m, as); err != nil {
		refuse(w, http.StatusConflict, err)
		return
	}
	a.Server.Log.Info("adopted a machine", printable([]any{"serial", m.Serial, "mac", m.MAC, "as", as, "by", r.RemoteAddr})...)
	a.Server.adopted()
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// adopted updates the standing of all machines after an adoption, which is shown
// before the adopted machine asks again.
func (s *Server) adopted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.nodes.recent.Front(); e != nil; e = e.Next() {
		n := nodeAt(e)
		n.standing = s.standing(n.Machine)
		n.Adopted = n.standing > stranger
	}
}

// ServeAdmin answers on a listener until ctx ends.
func (a *Admin) ServeAdmin(ctx context.Context, l net.Listener) error {
	return a.Server.serveHTTP(ctx, bounded(l, a.Server.Now, adminConns), a.Handler())
}
