package apiserver

import (
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/testing/certtest"
)

func serve(t *testing.T, h http.HandlerFunc) (*httptest.Server, *Client) {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	c, err := Open(certtest.Kubeconfig(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

// TestNode reads what an API server of v1.34.4 answered for a node of the cluster
// tests; testdata has it, with that of a node which is not Ready yet, and of one
// whose kubelet was stopped.
func TestNode(t *testing.T) {
	b, err := os.ReadFile("testdata/ready.json")
	if err != nil {
		t.Fatal(err)
	}
	_, c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/nodes/attic" {
			w.WriteHeader(http.StatusNotFound)
		}
		w.Write(b)
	})
	n, err := c.Node(t.Context(), "attic")
	if err != nil {
		t.Fatal(err)
	}
	ready, has := n.Condition("Ready")
	if !has || ready.Status != "True" || ready.Reason != "KubeletReady" ||
		!ready.Since.Equal(time.Date(2026, 11, 29, 17, 49, 2, 0, time.UTC)) {
		t.Errorf("Ready: got %+v", ready)
	}
	if n.Metadata.ResourceVersion != "279" || n.Status.NodeInfo.KubeletVersion != "v1.34.4" || n.Metadata.Labels["disk"] != "ssd" ||
		len(n.Status.Addresses) != 2 || len(n.Spec.Taints) != 1 || n.Spec.Taints[0].String() != "camera=yes:NoSchedule" {
		t.Errorf("got %+v", n)
	}
	if _, err := c.Node(t.Context(), "cellar"); !errors.Is(err, ErrNotFound) {
		t.Errorf("another node: got %v, want ErrNotFound", err)
	}
}

// TestBadAnswers: whatever a server answers, it is told apart, and soon.
func TestBadAnswers(t *testing.T) {
	const forbidden = `{"kind":"Status","apiVersion":"v1","status":"Failure",` +
		`"message":"node \"attic\" is not allowed\nto \u001b[31m modify taints"}`
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   error
		text   string
	}{
		"no JSON":      {answer(200, "<html>"), ErrAnswer, ""},
		"half of it":   {answer(200, `{"metadata": {"name": "attic"`), ErrAnswer, ""},
		"another type": {answer(200, `{"metadata": []}`), ErrAnswer, ""},
		"empty":        {answer(200, ""), ErrAnswer, ""},
		"no content":   {answer(204, ""), ErrAnswer, "204"},
		"redirect":     {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, ErrAnswer, "302"},
		"conflict":     {answer(409, `{}`), ErrConflict, "409"},
		"forbidden":    {answer(403, forbidden), ErrRefused, `node "attic" is not allowed to [31m modify taints`},
		"unauthorized": {answer(401, ""), ErrRefused, "401"},
		"invalid":      {answer(422, ""), ErrRefused, "422"},
		"busy":         {answer(429, ""), ErrUnreachable, "429"},
		"broken":       {answer(503, "no JSON"), ErrUnreachable, "503"},
		"without end":  {endless, ErrAnswer, "larger than"},
		"large header": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
		}, ErrUnreachable, ""},
		"closed at once": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, ErrUnreachable, ""},
		"shorter than it": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			io.WriteString(w, "{")
		}, ErrUnreachable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := serve(t, c.answer)
			s.Config.ErrorLog = nil
			_, err := client.Node(t.Context(), "attic")
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v with %q", err, c.want, c.text)
			}
		})
	}
}

// TestSlowServers: neither a server that is silent nor one that sends a byte at
// a time takes longer than the limit.
func TestSlowServers(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"silent": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"drip": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				io.WriteString(w, " ")
				w.(http.Flusher).Flush()
				time.Sleep(time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := serve(t, h)
			c.http.Timeout = 50 * time.Millisecond
			start := time.Now()
			if _, err := c.Node(t.Context(), "attic"); !errors.Is(err, ErrUnreachable) || time.Since(start) > 10*time.Second {
				t.Errorf("got %v after %v, want ErrUnreachable", err, time.Since(start))
			}
		})
	}
	if timeout > 5*time.Second {
		t.Errorf("people wait for %v", timeout)
	}
}

// TestPatch: a merge patch of the node, with the credentials of the file.
func TestPatch(t *testing.T) {
	var got, kind, path string
	_, c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, kind, path = string(b), r.Header.Get("Content-Type"), r.Method+" "+r.URL.String()
		io.WriteString(w, `{}`)
	})
	patch := map[string]any{"spec": map[string]any{"taints": []Taint{{Key: "a", Effect: "NoExecute"}}}}
	if _, err := c.Patch(t.Context(), "attic", patch); err != nil {
		t.Fatal(err)
	}
	if want := `{"spec":{"taints":[{"key":"a","effect":"NoExecute"}]}}`; got != want || kind != "application/merge-patch+json" ||
		path != "PATCH /api/v1/nodes/attic?fieldManager=pikeletd" {
		t.Errorf("got %s %s %s", path, kind, got)
	}
}

// TestKubeconfigs: what k3s writes for its own programs and for people is read,
// and what is damaged is refused with its name.
func TestKubeconfigs(t *testing.T) {
	s := httptest.NewTLSServer(answer(200, `{"gitVersion": "v1.34.4+k3s1"}`))
	defer s.Close()
	good := certtest.Kubeconfig(t, s)
	dir := filepath.Dir(good)
	data := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(b)
	}
	embedded := fmt.Sprintf("clusters: [{cluster: {server: '%s', certificate-authority-data: %s}}]\n"+
		"users: [{user: {client-certificate-data: %s, client-key-data: %s}}]\n", s.URL, data("ca.crt"), data("kubelet.crt"), data("kubelet.key"))
	for text, want := range map[string]string{
		embedded: "",
		strings.Replace(embedded, "https:", "http:", 1):                   "want an https address",
		strings.Replace(embedded, data("ca.crt"), data("kubelet.key"), 1): "holds no certificate",
		strings.Replace(embedded, data("ca.crt"), "'!'", 1):               "certificate authority: ",
		strings.Replace(embedded, data("kubelet.key"), data("ca.crt"), 1): "tls: ",
		strings.Replace(embedded, "client-key-data", "client-key", 1):     "client key: ",
		"clusters: []": "names no cluster",
		"a: [":         "reading ",
	} {
		name := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Open(name)
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v, want %q and the name of the file", err, want)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if v, err := c.Version(t.Context()); err != nil || v != "v1.34.4+k3s1" {
			t.Errorf("version: got %q, %v", v, err)
		}
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, ErrNotJoined) {
		t.Errorf("no file: got %v, want ErrNotJoined", err)
	}
}

// TestOtherServersAreRefused: the certificate of the cluster is checked.
func TestOtherServersAreRefused(t *testing.T) {
	s := httptest.NewTLSServer(answer(200, `{}`))
	defer s.Close()
	name := certtest.Kubeconfig(t, s)
	other, _ := certtest.Client(t)
	if block, _ := pem.Decode(other); block == nil {
		t.Fatal("no certificate")
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(name), "ca.crt"), other, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	s.Config.ErrorLog = nil
	if _, err := c.Node(t.Context(), "attic"); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v, want an error about the certificate", err)
	}
}

func answer(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, text)
	}
}

func endless(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, `{"metadata": {"name": "`)
	for r.Context().Err() == nil {
		if _, err := io.WriteString(w, strings.Repeat("x", 64<<10)); err != nil {
			return
		}
	}
}
