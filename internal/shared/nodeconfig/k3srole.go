package nodeconfig

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/yamlcheck"
)

// The options that k3s takes in its config file, by role: those an agent takes,
// which servers take too but for disable-apiserver-lb, and those only a server
// takes. From https://docs.k3s.io/cli/agent and https://docs.k3s.io/cli/server,
// and pkg/cli/cmds of k3s-io/k3s for those the help hides, for v1.26 to v1.34:
// an option that any of these releases takes is listed.
const (
	agentOptions = `airgap-extra-registry alsologtostderr bind-address cluster-secret config container-runtime-endpoint data-dir debug
		default-runtime disable-apiserver-lb disable-default-registry-endpoint disable-selinux docker enable-pprof flannel-cni-conf
		flannel-conf flannel-iface image-credential-provider-bin-dir image-credential-provider-config image-service-endpoint
		kube-proxy-arg kubelet-arg lb-server-port log no-flannel node-external-dns node-external-ip node-internal-dns node-ip
		node-label node-name node-taint nonroot-devices pause-image prefer-bundled-bin private-registry protect-kernel-defaults
		resolv-conf rootless selinux server snapshotter token token-file v vmodule vpn-auth vpn-auth-file with-node-id`
	serverOptions = `advertise-address advertise-port agent-token agent-token-file cluster-cidr cluster-dns cluster-domain cluster-init
		cluster-reset cluster-reset-restore-path datastore-cafile datastore-certfile datastore-endpoint datastore-keyfile
		default-local-storage-path disable disable-agent disable-apiserver disable-cloud-controller disable-controller-manager
		disable-etcd disable-helm-controller disable-kube-proxy disable-network-policy disable-scheduler egress-selector-mode
		embedded-registry etcd-arg etcd-disable-snapshots etcd-expose-metrics etcd-s3 etcd-s3-access-key etcd-s3-bucket
		etcd-s3-bucket-lookup-type etcd-s3-config-secret etcd-s3-endpoint etcd-s3-endpoint-ca etcd-s3-folder etcd-s3-insecure
		etcd-s3-proxy etcd-s3-region etcd-s3-retention etcd-s3-secret-key etcd-s3-session-token etcd-s3-skip-ssl-verify
		etcd-s3-timeout etcd-snapshot-compress etcd-snapshot-dir etcd-snapshot-name etcd-snapshot-reconcile-interval
		etcd-snapshot-retention etcd-snapshot-schedule-cron flannel-backend flannel-external-ip flannel-ipv6-masq
		helm-controller-arg helm-job-image https-listen-port kine-tls kube-apiserver-arg kube-cloud-controller-arg
		kube-cloud-controller-manager-arg kube-controller-arg kube-controller-manager-arg kube-scheduler-arg
		secrets-encryption secrets-encryption-provider service-cidr service-node-port-range servicelb-namespace
		supervisor-metrics system-default-registry tls-san tls-san-security write-kubeconfig write-kubeconfig-group
		write-kubeconfig-mode`
)

// shortOptions are the one-letter names of options. They mean the same in the
// config file, so they would be a way past what own refuses and secretOptions
// hides.
var shortOptions = map[string]string{
	"c": "config", "d": "data-dir", "i": "node-ip", "l": "log", "o": "write-kubeconfig", "s": "server", "t": "token",
}

// MaxShutdownGrace is the longest k3s.shutdown-grace. A node that stops for
// longer looks like one that hangs.
const MaxShutdownGrace = 10 * time.Minute

func isAgentOption(name string) bool { return slices.Contains(strings.Fields(agentOptions), name) }

func isServerOnly(name string) bool { return slices.Contains(strings.Fields(serverOptions), name) }

// CheckK3s checks on the desk what a node must not refuse: a config that it has
// may be older than this check, and its k3s newer than the list of options. It
// returns warnings, a line each, for options that a k3s server skips, and an
// error for what stops a k3s agent and for too long a shutdown-grace.
func (f *Document) CheckK3s() (warnings []string, err error) {
	bad, odd := yamlcheck.New(f.file), yamlcheck.New(f.file)
	check := func(whole *yaml.Node) {
		cfg := &Config{}
		if whole == nil || whole.Decode(cfg) != nil {
			return // Load has said why
		}
		b, o := yamlcheck.New(f.file), yamlcheck.New(f.file)
		b.Index(whole)
		o.Index(whole)
		checkRole(b, o, cfg.K3s)
		bad.Include(b)
		odd.Include(o)
	}
	if f.Inventory == nil {
		check(f.top)
	}
	for _, n := range f.nodes {
		check(joined(f.defaults, strip(n)))
	}
	var skipped *yamlcheck.Error
	if errors.As(odd.Err(), &skipped) {
		warnings = skipped.Problems
	}
	return warnings, bad.Err()
}

// checkRole notes the options of k that its role does not take: in bad what
// stops k3s, in odd what it skips.
func checkRole(bad, odd *yamlcheck.Checker, k K3s) {
	if g := time.Duration(k.ShutdownGrace); g > MaxShutdownGrace {
		bad.Add("k3s.shutdown-grace", "%v: want at most %v", g, MaxShutdownGrace)
	}
	const newer = "an option of another release of k3s goes into a file below /etc/rancher/k3s/config.yaml.d, through files"
	for _, key := range slices.Sorted(maps.Keys(k.Options)) {
		at, name := "k3s.options."+key, strings.TrimSuffix(key, "+")
		known := isAgentOption(name) || isServerOnly(name)
		switch {
		case shortOptions[name] != "":
			bad.Add(at, "spell it %s", shortOptions[name])
		case k.Role == "agent" && isServerOnly(name):
			bad.Add(at, "only servers take it, and k3s would not start as an agent")
		case k.Role == "agent" && !known:
			bad.Add(at, "k3s has no such option, and would not start as an agent; %s", newer)
		case k.Role == "server" && !known:
			odd.Add(at, "k3s has no such option; a server skips it. If k3s of the image has it: %s", newer)
		case k.Role == "server" && name == "disable-apiserver-lb":
			odd.Add(at, "only agents take it; a server skips it")
		}
	}
}

// joined lays a node's own config over what all nodes have, as merge does, and
// takes away from an agent the options of common that only servers take:
// defaults hold what a cluster has, and k3s does not start as an agent with any
// of them. What own has stays.
func joined(common, own *yaml.Node) *yaml.Node {
	whole := resolve(merge(common, own))
	k3s := resolve(child(whole, "k3s"))
	role := resolve(child(k3s, "role"))
	options := resolve(child(k3s, "options"))
	if role == nil || role.Value != "agent" || options == nil || options.Kind != yaml.MappingNode {
		return whole
	}
	mine := resolve(child(resolve(child(resolve(own), "k3s")), "options"))
	kept := *options
	kept.Content = nil
	for i := 0; i+1 < len(options.Content); i += 2 {
		key := options.Content[i]
		if k := keyOf(mine, key.Value); k != nil {
			key = k // messages name the line of the agent's own
		} else if isServerOnly(strings.TrimSuffix(key.Value, "+")) {
			continue
		}
		kept.Content = append(kept.Content, key, options.Content[i+1])
	}
	return with(whole, "k3s", with(k3s, "options", &kept))
}

// keyOf returns a key of a mapping, or nil.
func keyOf(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i]
		}
	}
	return nil
}

// with returns a copy of a mapping whose value of key is another.
func with(n *yaml.Node, key string, v *yaml.Node) *yaml.Node {
	out := *n
	out.Content = slices.Clone(n.Content)
	for i := 0; i+1 < len(out.Content); i += 2 {
		if out.Content[i].Value == key {
			out.Content[i+1] = v
		}
	}
	return &out
}
