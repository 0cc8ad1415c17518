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

// Admin is what people and their programs ask a server: who boots, how far each
// is, metrics, and to adopt. It is apart from the boot plane, which every
// machine of the network reaches.
type Admin struct {
	Server *Server
	// Token must come with every request, as a bearer's or as the password of
	// Basic authentication; "" for none, which is for loopback only.
	Token string
	// Adopt takes the machine of a serial and a hardware address; as is the
	// entry of the inventory that it becomes, "" for none.
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
	// A page of somebody else's that a browser here shows must not adopt.
	return a.guarded(http.NewCrossOriginProtection().Handler(mux))
}

// guarded lets in who has the token. Without one only names of this machine
// count: a name that somebody points at 127.0.0.1 would otherwise have a browser
// ask for its page.
func (a *Admin) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'")
		if a.Token == "" {
			if !loopback(r.Host) {
				refuse(w, http.StatusForbidden, fmt.Errorf("this is no place called %q", r.Host))
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
			w.Header().Set("WWW-Authenticate", `Basic realm="pikelet serve: any name, and the token"`)
			refuse(w, http.StatusUnauthorized, errors.New("the token is missing, or another"))
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
		refuse(w, http.StatusBadRequest, fmt.Errorf("serial %q: want eight hexadecimal digits in lower case", m.Serial))
		return
	case !macForm.MatchString(m.MAC):
		refuse(w, http.StatusBadRequest, fmt.Errorf("mac %q: want the hardware address shown beside the serial", m.MAC))
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

// adopted notes that a machine was adopted, for who looks before it asks again.
func (s *Server) adopted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.nodes.recent.Front(); e != nil; e = e.Next() {
		n := node(e)
		n.standing = s.standing(n.Machine)
		n.Adopted = n.standing > stranger
	}
}

// ServeAdmin answers on a listener until ctx ends.
func (a *Admin) ServeAdmin(ctx context.Context, l net.Listener) error {
	return a.Server.serveHTTP(ctx, bounded(l, a.Server.Now, adminConns), a.Handler())
}
