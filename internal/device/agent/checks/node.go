package checks

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"time"

	yaml "go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/device/agent/sysfs"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// kubeletConfig is what k3s gives its kubelet to talk to the API server with
// (docs/platform.md 7.9).
const kubeletConfig = node.K3sDir + "/agent/kubelet.kubeconfig"

func nodeCheck(ctx context.Context, s state) node.Check {
	err := nodeReady(ctx, kubeletConfig, s.prepared.Hostname, sysfs.Read("/proc/sys/kernel/random/boot_id"))
	switch {
	case err == nil:
		return result("node", "the API server sees it as Ready", "")
	case errors.Is(err, errUnreachable) && s.cfg.K3s.Role != "server":
		return s.beyond("node", err.Error())
	}
	return result("node", "", err.Error())
}

// kubeconfig is what we need of such a file.
type kubeconfig struct {
	Clusters []struct {
		Cluster struct {
			Server string `yaml:"server"`
			CA     string `yaml:"certificate-authority"`
		} `yaml:"cluster"`
	} `yaml:"clusters"`
	Users []struct {
		User struct {
			Cert string `yaml:"client-certificate"`
			Key  string `yaml:"client-key"`
		} `yaml:"user"`
	} `yaml:"users"`
}

// errUnreachable reports an API server that does not answer.
var errUnreachable = errors.New("the API server does not answer")

// nodeReady asks the API server whether it sees this node, as it runs now, as
// Ready.
func nodeReady(ctx context.Context, config, name, bootID string) error {
	text, err := os.ReadFile(config)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("k3s has not joined a cluster yet: there is no " + config)
	}
	if err != nil {
		return err
	}
	var k kubeconfig
	if err := yaml.Unmarshal(text, &k); err != nil {
		return fmt.Errorf("%s: %w", config, err)
	}
	if len(k.Clusters) == 0 || len(k.Users) == 0 {
		return fmt.Errorf("%s names no cluster or no user", config)
	}
	cluster, user := k.Clusters[0].Cluster, k.Users[0].User
	ca, err := os.ReadFile(cluster.CA)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return fmt.Errorf("%s holds no certificate", cluster.CA)
	}
	cert, err := tls.LoadX509KeyPair(user.Cert, user.Key)
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}, DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, cluster.Server+"/api/v1/nodes/"+name, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnreachable, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errUnreachable, err)
	case resp.StatusCode >= 500:
		return fmt.Errorf("%w: %s", errUnreachable, resp.Status)
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("the API server knows no node %s yet", name)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("the API server answers %s", resp.Status)
	}
	return readyNode(b, bootID)
}

// readyNode reads a Node object.
func readyNode(b []byte, bootID string) error {
	var n struct {
		Status struct {
			Conditions []struct{ Type, Status, Reason, Message string }
			NodeInfo   struct{ BootID string }
		}
	}
	if err := json.Unmarshal(b, &n); err != nil {
		return fmt.Errorf("the API server's answer: %w", err)
	}
	if n.Status.NodeInfo.BootID != bootID {
		return errors.New("the API server still sees the boot before this one")
	}
	for _, c := range n.Status.Conditions {
		if c.Type == "Ready" && c.Status == "True" {
			return nil
		}
		if c.Type == "Ready" {
			return fmt.Errorf("the API server sees this node as not Ready: %s %s", c.Reason, c.Message)
		}
	}
	return errors.New("the API server reports no condition Ready of this node")
}
