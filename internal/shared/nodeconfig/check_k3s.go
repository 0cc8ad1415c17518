package nodeconfig

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Names and values of labels, as k8s.io/apimachinery/pkg/util/validation has
// them: a prefix is a DNS-1123 subdomain of at most 253 bytes, name and value
// have at most 63.
var (
	labelPrefix = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	labelName   = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
)

// kubeletLabels are the labels in namespaces of Kubernetes that a kubelet may
// give itself, besides those in kubeletNamespaces
// (k8s.io/kubelet/pkg/apis/well_known_labels.go).
var kubeletLabels = []string{
	"kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch",
	"topology.kubernetes.io/zone", "topology.kubernetes.io/region",
	"failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region",
	"node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type",
	"beta.kubernetes.io/os", "beta.kubernetes.io/arch",
}

var kubeletNamespaces = []string{"kubelet.kubernetes.io", "node.kubernetes.io"}

// inNamespace reports whether a label's prefix is a namespace or lies below it.
func inNamespace(prefix, namespace string) bool {
	return prefix == namespace || strings.HasSuffix(prefix, "."+namespace)
}

// checkLabelKey returns what is wrong with the key of a label or taint.
func checkLabelKey(key string) error {
	prefix, name, hasPrefix := strings.Cut(key, "/")
	if !hasPrefix {
		prefix, name = "", key
	}
	if hasPrefix && (len(prefix) > 253 || !labelPrefix.MatchString(prefix)) || !labelName.MatchString(name) {
		return fmt.Errorf("%q is not a valid key: want NAME or DOMAIN/NAME, the name with letters, digits, -, _ and ., at most 63", shorten(key))
	}
	return nil
}

// CheckLabel returns what is wrong with a label that a node is to give itself.
// The kubelet exits when it is given one in a namespace of Kubernetes that is
// not its own, and k3s with it (k3s-io/k3s#1289, #10916).
func CheckLabel(key, value string) error {
	if err := checkLabelKey(key); err != nil {
		return err
	}
	if value != "" && !labelName.MatchString(value) {
		return fmt.Errorf("value %q: want letters, digits, -, _ and ., at most 63, beginning and ending with a letter or digit", shorten(value))
	}
	prefix, _, hasPrefix := strings.Cut(key, "/")
	if !hasPrefix || !inNamespace(prefix, "kubernetes.io") && !inNamespace(prefix, "k8s.io") || slices.Contains(kubeletLabels, key) ||
		slices.ContainsFunc(kubeletNamespaces, func(n string) bool { return inNamespace(prefix, n) }) {
		return nil
	}
	return fmt.Errorf("the kubelet refuses to give itself a label in %s, and k3s does not start; set it when the node has "+
		"joined: kubectl label node NAME %s=%s",
		prefix, key, value)
}

var taintEffects = []string{"NoSchedule", "PreferNoSchedule", "NoExecute"}

// checkTaint returns what is wrong with a taint, as the kubelet reads it, and
// its key and effect, which only one taint may have.
func checkTaint(taint string) (keyEffect string, err error) {
	rest, effect, _ := strings.Cut(taint, ":")
	key, value, _ := strings.Cut(rest, "=")
	if !slices.Contains(taintEffects, effect) || key == "" {
		return "", fmt.Errorf("%q: want KEY=VALUE:NoSchedule, :PreferNoSchedule or :NoExecute", taint)
	}
	if err := checkLabelKey(key); err != nil {
		return "", err
	}
	if value != "" && !labelName.MatchString(value) {
		return "", fmt.Errorf("value %q: want letters, digits, -, _ and ., at most 63", shorten(value))
	}
	return key + ":" + effect, nil
}

func (c *checker) labelsAndTaints(field string, k K3s) {
	for _, key := range slices.Sorted(maps.Keys(k.Labels)) {
		if err := CheckLabel(key, k.Labels[key]); err != nil {
			c.Add(field+".labels."+key, "%v", err)
		}
	}
	var seen []string
	for i, t := range k.Taints {
		at := fmt.Sprintf("%s.taints[%d]", field, i)
		same, err := checkTaint(t)
		switch {
		case err != nil:
			c.Add(at, "%v", err)
		case slices.Contains(seen, same):
			c.Add(at, "there is a taint with the same key and effect above, and the kubelet refuses a second one")
		}
		seen = append(seen, same)
	}
}

// checkServer returns what is wrong with the address of a k3s server. k3s takes
// it as a URL and asks it for /cacerts (k3s-io/k3s#1101, #2168).
func checkServer(text string) error {
	const want = "want an address such as https://10.0.0.10:6443"
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%q: %s", text, want)
	case u.User != nil:
		return errors.New("there is an account in it; " + want)
	case u.Port() == "" && strings.HasSuffix(u.Host, ":"):
		return fmt.Errorf("%q: no port after the colon; %s", text, want)
	}
	if u.Port() != "" {
		if n, err := strconv.Atoi(u.Port()); err != nil || n < 1 || n > 65535 {
			return fmt.Errorf("%q: port %s: want 1 to 65535", text, u.Port())
		}
	}
	if strings.HasPrefix(u.Host, "[") {
		if a, err := netip.ParseAddr(u.Hostname()); err != nil || !a.Is6() {
			return fmt.Errorf("%q: want an IPv6 address between the brackets", text)
		}
	} else if !isHost(u.Hostname()) {
		return fmt.Errorf("%q: %q is neither a name nor an address; %s", text, u.Hostname(), want)
	}
	return nil
}

// beginsCluster reports whether a server begins a cluster of etcd.
func (k K3s) beginsCluster() bool {
	return k.Role == "server" && k.Server == "" && fmt.Sprint(k.Options["cluster-init"]) == "true"
}

// clusterInit looks at what beginning a cluster goes with (k3s-io/k3s#13623).
func (c *checker) clusterInit(cfg *Config) {
	if !cfg.K3s.beginsCluster() {
		return
	}
	if cfg.Volume.Place() == OnMemory {
		c.Add("volume.on", "memory: the etcd of cluster-init would be gone at the next boot, and the cluster with it; want "+
			"state, disk or iscsi")
	}
}
