package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/internal/testing/rig/supervisor"
)

// agent starts what a node runs.
func (p *processes) agent(ctx context.Context, o options, node, ip string, network supervisor.Network) error {
	plugins, err := exec.LookPath("host-local")
	if err != nil {
		return fmt.Errorf("network plugins: %w", err)
	}
	if err := writeContainerd(o, filepath.Dir(plugins)); err != nil {
		return err
	}
	if err := p.start("containerd", nil, "-c", agentDir+"/etc/containerd/config.toml"); err != nil {
		return err
	}
	if err := p.containerdAnswers(); err != nil {
		return err
	}
	importImages()
	if err := writeKubelet(o, network.ClusterDNS); err != nil {
		return err
	}
	kubelet := []string{
		"--config=" + agentDir + "/etc/kubelet.conf.d/00-k3s-defaults.conf", "--kubeconfig=" + agentDir + "/kubelet.kubeconfig",
		"--hostname-override=" + node, "--node-ip=" + ip,
	}
	if l := o["node-label"]; len(l) > 0 {
		kubelet = append(kubelet, "--node-labels="+strings.Join(l, ","))
	}
	if l := o["node-taint"]; len(l) > 0 {
		kubelet = append(kubelet, "--register-with-taints="+strings.Join(l, ","))
	}
	if err := p.start("kubelet", nil, append(kubelet, o.arguments("kubelet-arg")...)...); err != nil {
		return err
	}
	if o.one("disable-kube-proxy") != "true" {
		proxy := []string{
			"--kubeconfig=" + agentDir + "/kubeproxy.kubeconfig", "--hostname-override=" + node, "--proxy-mode=iptables",
			"--cluster-cidr=" + network.ClusterCIDR, "--healthz-bind-address=127.0.0.1", "--conntrack-max-per-core=0",
			"--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
		}
		if err := p.start("kube-proxy", nil, append(proxy, o.arguments("kube-proxy-arg")...)...); err != nil {
			return err
		}
	}
	if network.Flannel == "none" {
		return nil
	}
	go p.network(ctx, o, node, network)
	return nil
}

func (p *processes) containerdAnswers() error {
	for {
		out, err := exec.Command("ctr", "-a", socket, "version").CombinedOutput()
		if err == nil {
			logf("containerd is now running")
			return nil
		}
		select {
		case err := <-p.ended:
			return fmt.Errorf("%w: %s", err, out)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// importImages imports all archives of container images at each start, as k3s does.
func importImages() {
	archives, _ := filepath.Glob(agentDir + "/images/*")
	for _, name := range archives {
		begin := time.Now()
		if err := importImage(name); err != nil {
			logf("Error importing %s: %v", name, err)
			continue
		}
		logf("Imported images from %s in %v", name, time.Since(begin).Round(time.Millisecond))
	}
}

func importImage(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	var in io.Reader = f
	if strings.HasSuffix(name, ".zst") {
		d, err := zstd.NewReader(f)
		if err != nil {
			return err
		}
		defer d.Close()
		in = d
	}
	c := exec.Command("ctr", "-a", socket, "-n", "k8s.io", "images", "import", "--snapshotter", "overlayfs", "-")
	c.Stdin = in
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// writeContainerd writes the configuration of containerd 1.7, with the paths of
// k3s (pkg/agent/templates).
func writeContainerd(o options, plugins string) error {
	auth, err := writeRegistries("/etc/rancher/k3s/registries.yaml", agentDir+"/etc/containerd/certs.d")
	if err != nil {
		return err
	}
	text := fmt.Sprintf(`version = 2
root = "%[1]s/containerd"
state = "/run/k3s/containerd"
[grpc]
  address = "%[2]s"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "%[4]s"
  enable_selinux = false
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "%[5]s"
  disable_snapshot_annotations = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "%[3]s"
  conf_dir = "%[1]s/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "%[1]s/etc/containerd/certs.d"
%[6]s`, agentDir, socket, plugins, o.or("pause-image", "registry.test/pause:1"), o.or("snapshotter", "overlayfs"), auth)
	return errors.Join(write(agentDir+"/etc/containerd/config.toml", []byte(text)),
		write(crictlConfig, []byte("runtime-endpoint: unix://"+socket+"\n")))
}

// writeKubelet writes the kubelet's configuration as k3s does
// (pkg/daemons/agent/agent_linux.go).
func writeKubelet(o options, dns string) error {
	if err := os.MkdirAll(agentDir+"/pod-manifests", 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true, cacheTTL: 2m0s}
  x509: {clientCAFile: %[1]s/client-ca.crt}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
clusterDNS: [%[3]s]
clusterDomain: %[4]s
containerRuntimeEndpoint: unix://%[2]s
evictionHard: {imagefs.available: 5%%, nodefs.available: 5%%}
evictionMinimumReclaim: {imagefs.available: 10%%, nodefs.available: 10%%}
failSwapOn: false
healthzBindAddress: 127.0.0.1
readOnlyPort: 0
resolvConf: %[5]s
serializeImagePulls: false
staticPodPath: %[1]s/pod-manifests
tlsCertFile: %[1]s/serving-kubelet.crt
tlsPrivateKeyFile: %[1]s/serving-kubelet.key
volumePluginDir: /var/lib/kubelet/volumeplugins
`, agentDir, socket, dns, o.or("cluster-domain", "cluster.local"), o.or("resolv-conf", "/etc/resolv.conf"))
	return write(agentDir+"/etc/kubelet.conf.d/00-k3s-defaults.conf", []byte(text))
}

// nodeObject is what is read of a Node.
type nodeObject struct {
	Spec struct {
		PodCIDR string `json:"podCIDR"`
	} `json:"spec"`
	Status struct {
		Conditions []struct{ Type, Status, Message string } `json:"conditions"`
	} `json:"status"`
}

func (n nodeObject) ready() bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c struct{ Type, Status, Message string }) bool {
		return c.Type == "Ready" && c.Status == "True"
	})
}

// network waits for the node's share of the cluster's addresses, starts flannel
// and tells containerd of the network.
func (p *processes) network(ctx context.Context, o options, node string, n supervisor.Network) {
	client, err := kubeletClient()
	if err != nil {
		p.ended <- err
		return
	}
	wasReady := false
	for cidr := ""; ctx.Err() == nil; time.Sleep(time.Second) {
		now, err := getNode(ctx, client, node)
		if err != nil {
			continue
		}
		if cidr == "" && now.Spec.PodCIDR != "" {
			cidr = now.Spec.PodCIDR
			if err := p.flannel(o, node, cidr, n); err != nil {
				p.ended <- err
				return
			}
		}
		if now.ready() != wasReady {
			wasReady = !wasReady
			logf("node %s is Ready: %v", node, wasReady)
		}
	}
}

func kubeletClient() (*http.Client, error) {
	c := supervisor.Pair{Cert: agentDir + "/client-kubelet.crt", Key: agentDir + "/client-kubelet.key", CA: agentDir + "/server-ca.crt"}
	return c.Client(nil)
}

func getNode(ctx context.Context, client *http.Client, node string) (n nodeObject, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1:6444/api/v1/nodes/"+node, nil)
	if err != nil {
		return n, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return n, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return n, fmt.Errorf("asking for the node: %s", resp.Status)
	}
	return n, json.NewDecoder(resp.Body).Decode(&n)
}

// flannel starts flannel, and writes the network's configuration for containerd:
// that of flannel's plugin with bridge, which is what the plugin makes of it.
func (p *processes) flannel(o options, node, cidr string, n supervisor.Network) error {
	logf("Starting flannel with backend %s, addresses of pods %s", n.Flannel, cidr)
	conf, err := json.Marshal(map[string]any{"Network": n.ClusterCIDR, "EnableIPv4": true, "Backend": map[string]string{"Type": n.Flannel}})
	if err != nil {
		return err
	}
	if err := write(agentDir+"/etc/flannel/net-conf.json", conf); err != nil {
		return err
	}
	err = p.start("flanneld", []string{"NODE_NAME=" + node}, "--kubeconfig-file="+agentDir+"/k3scontroller.kubeconfig",
		"--net-config-path="+agentDir+"/etc/flannel/net-conf.json", "--iface="+o.one("flannel-iface"))
	if err != nil {
		return err
	}
	mtu := 1500
	if n.Flannel == "vxlan" {
		mtu -= 50
	}
	return write(agentDir+"/etc/cni/net.d/10-flannel.conflist", fmt.Appendf(nil, `{"cniVersion": "1.0.0", "name": "cbr0", "plugins": [
 {"type": "bridge", "bridge": "cni0", "mtu": %d, "isGateway": true, "isDefaultGateway": true, "ipMasq": false, "hairpinMode": true,
  "forceAddress": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "%s"}]], "routes": [{"dst": "%s"}]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}`, mtu, cidr, n.ClusterCIDR))
}
