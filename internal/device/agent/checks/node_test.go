package checks

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/device/agent/apiserver"
	"github.com/pikelet-os/pikelet/internal/testing/certtest"
)

// nodeServer answers what the function returns for the node attic, to whoever
// has the certificate of its kubelet.
func nodeServer(t *testing.T, answer func() (status int, text string)) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peers := r.TLS.PeerCertificates
		if r.URL.Path != "/api/v1/nodes/attic" || len(peers) == 0 || peers[0].Subject.CommonName != "system:node:attic" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		status, text := answer()
		w.WriteHeader(status)
		fmt.Fprint(w, text)
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// TestNodeReady: what the API server says of this node, and what it says
// nothing of, with the kubelet's own certificate.
func TestNodeReady(t *testing.T) {
	answer, status := "", http.StatusOK
	s := nodeServer(t, func() (int, string) { return status, answer })
	if err := nodeReady(t.Context(), t.TempDir()+"/none", "attic", "this boot"); err == nil ||
		!strings.Contains(err.Error(), "has not joined") {
		t.Errorf("before it joined: %v", err)
	}
	config := certtest.Kubeconfig(t, s)
	node := func(ready, boot string) string {
		return fmt.Sprintf(`{"status": {"nodeInfo": {"bootID": %q}, "conditions": [
			{"type": "MemoryPressure", "status": "False"},
			{"type": "Ready", "status": %q, "reason": "KubeletNotReady", "message": "cni plugin not initialized"}]}}`, boot, ready)
	}
	for _, c := range []struct {
		answer string
		status int
		want   string
		beyond bool
	}{
		{node("True", "this boot"), 200, "", false},
		{node("False", "this boot"), 200, "not Ready: KubeletNotReady cni plugin", false},
		{node("True", "another"), 200, "the boot before", false},
		{`{}`, 200, "boot before", false},
		{`no JSON`, 200, "answer", false},
		{"", 404, "knows no node attic", false},
		{"", 403, "403", false},
		{"", 503, "does not answer", true},
	} {
		answer, status = c.answer, c.status
		err := nodeReady(t.Context(), config, "attic", "this boot")
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) ||
			errors.Is(err, apiserver.ErrUnreachable) != c.beyond {
			t.Errorf("%d %s: %v; want %q", c.status, c.answer, err, c.want)
		}
	}
	s.Close()
	if err := nodeReady(t.Context(), config, "attic", "this boot"); !errors.Is(err, apiserver.ErrUnreachable) {
		t.Errorf("a server that is away: %v", err)
	}
}

// TestNodeReadyOfWholeAnswers: nodes as an API server of v1.34.4 described them.
// One is Ready only in the boot that runs now: the cluster calls a node that
// restarts Ready until it has missed it for a while.
func TestNodeReadyOfWholeAnswers(t *testing.T) {
	const boot = "0199c828-7815-48b9-83e6-29bbfde7fd96"
	answer := ""
	config := certtest.Kubeconfig(t, nodeServer(t, func() (int, string) { return http.StatusOK, answer }))
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile("../apiserver/testdata/" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	ready := read("ready")
	for name, c := range map[string]struct{ answer, boot, want string }{
		"ready":              {ready, boot, ""},
		"not ready":          {read("notready"), boot, "not Ready: KubeletNotReady [PLEG is not healthy: pleg has yet to be"},
		"not heard of":       {read("unknown"), boot, "not Ready: NodeStatusUnknown Kubelet stopped posting node status."},
		"of another boot":    {ready, "11111111-7f31-4b8e-9c6a-2f1d6a8c0b55", "still sees the boot before this one"},
		"without boot":       {strings.Replace(ready, `"bootID"`, `"noBootID"`, 1), boot, "still sees the boot before"},
		"without condition":  {strings.Replace(ready, `"Ready"`, `"Steady"`, 2), boot, "no condition Ready"},
		"cut off":            {ready[:len(ready)/2], boot, "invalid answer"},
		"of many megabytes":  {strings.Replace(ready, `"KubeletReady"`, `"`+strings.Repeat("x", 5<<20)+`"`, 1), boot, "larger than"},
		"as large as it may": {strings.Replace(ready, "registry.test/pause", strings.Repeat("x", 3<<20), 1), boot, ""},
		"a list":             {"[" + ready + "]", boot, "invalid answer"},
		"garbage":            {"\x00\xff\x1b[2J", boot, "invalid answer"},
	} {
		answer = c.answer
		err := nodeReady(t.Context(), config, "attic", c.boot)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if err != nil && (len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\x00\x1b\n")) {
			t.Errorf("%s: the message has %d bytes, or control characters: %.100q", name, len(err.Error()), err.Error())
		}
	}
}
