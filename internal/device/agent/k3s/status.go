package k3s

import (
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// kubeletHealth is where the kubelet says how it is (docs/platform.md 7.9).
const kubeletHealth = "http://127.0.0.1:10248/healthz"

// Status asks the kubelet for its health. It returns the zero value where the
// config gives the node no role.
func Status(cfg *nodeconfig.Config) node.K3sStatus {
	s := node.K3sStatus{Role: cfg.K3s.Role}
	if s.Role == "" {
		return s
	}
	client := &http.Client{Timeout: 3 * time.Second}
	resp, err := client.Get(kubeletHealth)
	if err != nil {
		s.Says = "the kubelet does not answer: " + err.Error()
		return s
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	s.Running, s.Says = resp.StatusCode == http.StatusOK, strings.TrimSpace(string(b))
	return s
}

// Kubeconfig returns the file in which a k3s server leaves the kubeconfig for whoever
// administers the cluster: k3s.yaml (https://docs.k3s.io/cluster-access), or what its
// option write-kubeconfig names.
func Kubeconfig(cfg *nodeconfig.Config) string {
	if name, ok := cfg.K3s.Options["write-kubeconfig"].(string); ok && name != "" {
		return name
	}
	return "/etc/rancher/k3s/k3s.yaml"
}
