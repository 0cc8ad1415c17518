package answers

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// authority is a server CA.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{t, cert, key}
}

func (a authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func (a authority) cluster() string {
	c, err := node.ClusterOf([]byte(a.pem()))
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// serve starts a server with a certificate of the authority that expired long ago,
// and returns its address.
func (a authority) serve(h http.HandlerFunc) string {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.Config.ErrorLog = nil
	s.StartTLS()
	a.t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/cacerts" {
			http.NotFound(w, r)
			return
		}
		w.Write([]byte(text))
	}
}

// TestAs: a server is known by its authority, whatever the clock says; one that
// repeats a CA's certificate is not.
func TestAs(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for name, c := range map[string]struct {
		address string
		want    string // "" for a server of the cluster
	}{
		"a server of the cluster":     {ours.serve(says(ours.pem())), ""},
		"a server of another cluster": {other.serve(says(other.pem())), "another cluster's server answers"},
		"one that repeats the CA":     {other.serve(says(ours.pem())), "is not of the server CA"},
		"one that is no k3s":          {ours.serve(http.NotFound), "404"},
		"one that says nothing":       {ours.serve(says("")), "not a certificate"},
		"one that says too much":      {ours.serve(says(strings.Repeat(" ", 2*maxCA) + ours.pem())), "not a certificate"},
		"one that leads elsewhere":    {ours.serve(http.RedirectHandler("/elsewhere", http.StatusFound).ServeHTTP), "302"},
		"nobody":                      {closed.Addr().String(), "refused"},
	} {
		err := As(context.Background(), c.address, ours.cluster())
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got error %v, want %q", name, err, c.want)
		}
	}
	if err := As(context.Background(), other.serve(says(other.pem())), ours.cluster()); !errors.Is(err, ErrOther) {
		t.Errorf("got error %v, want %v", err, ErrOther)
	}
}

// TestElsewhere: this machine's own addresses are left out, those of others are not.
func TestElsewhere(t *testing.T) {
	ours := newAuthority(t)
	at := ours.serve(says(ours.pem())) // loopback, an address of this machine
	if got := Elsewhere(context.Background(), []string{at}, ours.cluster()); got != "" {
		t.Errorf("got %q, which is this machine", got)
	}
	if own(context.Background(), "192.0.2.1:6443") || own(context.Background(), "192.0.2.1") || !own(context.Background(), at) {
		t.Error("whose addresses are not this machine's")
	}
	// All of 127.0.0.0/8 leads here, and 127.0.0.1 alone is an interface's address.
	_, port, err := net.SplitHostPort(at)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Skip("no second address of loopback here")
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err != nil {
				c.Close()
				return
			}
			go relay(c, s)
			go relay(s, c)
		}
	}()
	want := l.Addr().String()
	if got := Elsewhere(context.Background(), []string{at, want}, ours.cluster()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := Elsewhere(context.Background(), []string{want}, newAuthority(t).cluster()); got != "" {
		t.Errorf("of another cluster: got %q", got)
	}
}

func relay(a, b net.Conn) {
	defer a.Close()
	buf := make([]byte, 4096)
	for {
		n, err := b.Read(buf)
		if n > 0 {
			if _, err := a.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
