package supervisor

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
)

// secrets is an API server that keeps secrets and nothing else.
func secrets(t *testing.T, c Cluster) Dial {
	t.Helper()
	kept := map[string]map[string][]byte{}
	const prefix = "/api/v1/namespaces/kube-system/secrets"
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+prefix, func(w http.ResponseWriter, r *http.Request) {
		var s struct {
			Metadata   struct{ Name string }
			StringData map[string]string
		}
		if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
			t.Error(err)
		}
		kept[s.Metadata.Name] = map[string][]byte{"hash": []byte(s.StringData["hash"])}
		w.WriteHeader(http.StatusCreated)
	})
	mux.HandleFunc("GET "+prefix+"/{name}", func(w http.ResponseWriter, r *http.Request) {
		data, there := kept[r.PathValue("name")]
		if !there {
			http.NotFound(w, r)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"data": data})
	})
	pair, err := tls.LoadX509KeyPair(c.TLS("serving-kube-apiserver.crt"), c.TLS("serving-kube-apiserver.key"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go http.Serve(l, mux)
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, l.Addr().String())
	}
}

// TestJoin: a node that knows the token gets certificates for its name; another
// node of the same name, which has another password, does not.
func TestJoin(t *testing.T) {
	c, err := Create(t.TempDir(), "a-token")
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(c.TLS("server-ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(ca)
	if got, err := c.Token(); err != nil || got != "K10"+hex.EncodeToString(sum[:])+"::server:a-token" {
		t.Errorf("the token is %q, %v", got, err)
	}
	dial := secrets(t, c)
	s, err := New(c, DefaultNetwork(), dial, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go s.Serve(l, dial)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	ask := func(path, token, password string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, "https://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("node", token)
		req.Header.Set("k3s-Node-Name", "attic")
		req.Header.Set("k3s-Node-Password", password)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	const cert = "/v1-k3s/client-kubelet.crt"
	for _, c := range []struct {
		name, path, token, password string
		want                        int
	}{
		{"authorities need no token", "/cacerts", "", "", 200},
		{"another token", cert, "b-token", "first", 401},
		{"no password", cert, "a-token", "", 403},
		{"the first with the name", cert, "a-token", "first", 200},
		{"the same again", cert, "a-token", "first", 200},
		{"another with the name", cert, "a-token", "second", 403},
		{"no such path", "/v1-k3s/other", "a-token", "first", 404},
	} {
		if got, text := ask(c.path, c.token, c.password); got != c.want {
			t.Errorf("%s: got %d, want %d: %s", c.name, got, c.want, text)
		}
	}
	_, text := ask(cert, "a-token", "first")
	p, rest := pem.Decode([]byte(text))
	if p == nil || !strings.Contains(string(rest), "PRIVATE KEY") {
		t.Fatalf("no certificate with its key: %s", text)
	}
	got, err := x509.ParseCertificate(p.Bytes)
	if err != nil || got.Subject.CommonName != "system:node:attic" || got.Subject.Organization[0] != "system:nodes" {
		t.Errorf("the certificate is for %v, %v", got.Subject, err)
	}
}
