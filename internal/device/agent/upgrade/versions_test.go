package upgrade

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/device/agent/apiserver"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
	"github.com/pikelet-os/pikelet/internal/testing/certtest"
)

// TestVersions: what an agent and a server find out of their cluster, an agent by
// what the API server lets it read.
func TestVersions(t *testing.T) {
	object := func(name, version, label string) string {
		return fmt.Sprintf(`{"metadata": {"name": %q, "labels": {%s}}, "status": {"nodeInfo": {"kubeletVersion": %q}}}`, name, label, version)
	}
	const plane = `"node-role.kubernetes.io/control-plane": "true"`
	git := "v1.34.4+k3s1"
	var asked []string
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.String())
		switch {
		case r.URL.Path == "/version":
			fmt.Fprintf(w, `{"gitVersion": %q}`, git)
		case r.URL.Path == "/api/v1/nodes/attic":
			fmt.Fprint(w, object("attic", "v1.33.1+k3s1", ""))
		case r.URL.Path == "/api/v1/nodes" && r.URL.Query().Get("continue") == "":
			fmt.Fprintf(w, `{"metadata": {"continue": "more"}, "items": [%s, %s]}`, object("attic", "v1.34.4+k3s1", plane),
				object("cellar", "v1.34.3+k3s1", plane))
		case r.URL.Path == "/api/v1/nodes":
			fmt.Fprintf(w, `{"metadata": {}, "items": [%s, %s]}`, object("shed", "v1.32.0+k3s1", ""), object("new", "", ""))
		default:
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer s.Close()
	config, none := certtest.Kubeconfig(t, s), filepath.Join(t.TempDir(), "none")
	c, err := versions(t.Context(), "agent", "attic", config, none)
	if err != nil || c.Server || c.API.String() != "v1.34.4+k3s1" || c.Kubelet.String() != "v1.33.1+k3s1" || c.Others != nil {
		t.Errorf("an agent: got %+v, %v", c, err)
	}
	for _, path := range asked {
		if path != "/version" && path != "/api/v1/nodes/attic" {
			t.Errorf("an agent asks for %s, which it may not read", path)
		}
	}
	c, err = versions(t.Context(), "server", "attic", none, config)
	if err != nil || !c.Server || c.Kubelet.String() != "v1.34.4+k3s1" || len(c.Others) != 3 || c.Others[0].Name != "cellar" ||
		!c.Others[0].Server || c.Others[1].Server || c.Others[1].Kubelet.Minor != 32 || !c.Others[2].Kubelet.IsZero() {
		t.Errorf("a server: got %+v, %v", c, err)
	}
	if c, err = versions(t.Context(), "", "attic", none, none); c != nil || err != nil {
		t.Errorf("no role: got %+v, %v", c, err)
	}
	if _, err = versions(t.Context(), "agent", "attic", none, config); !errors.Is(err, apiserver.ErrNotJoined) {
		t.Errorf("an agent that has not joined: got %v, want %v", err, apiserver.ErrNotJoined)
	}
	git = "<html>"
	_, err = versions(t.Context(), "agent", "attic", config, none)
	if !errors.Is(err, apiserver.ErrAnswer) || !errors.Is(err, skew.ErrVersion) {
		t.Errorf("an answer that is no version: got %v, want %v", err, apiserver.ErrAnswer)
	}
}

// TestNodesWithoutEnd: a list that never ends is an error.
func TestNodesWithoutEnd(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"gitVersion": "v1.34.4", "metadata": {"continue": "more"}}`)
	}))
	defer s.Close()
	_, err := versions(t.Context(), "server", "attic", "", certtest.Kubeconfig(t, s))
	if !errors.Is(err, apiserver.ErrAnswer) || !strings.Contains(err.Error(), "nodes") {
		t.Errorf("got %v, want %v", err, apiserver.ErrAnswer)
	}
}
