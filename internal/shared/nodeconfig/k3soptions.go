package nodeconfig

import (
	"strconv"
	"strings"
	"sync"
)

// The options that k3s takes in its config file, by role, for v1.26 to v1.37:
// those that both take, those only agents take, and those only servers take.
// They are the flags of pkg/cli/cmds/agent.go and server.go of k3s-io/k3s, hidden
// ones too; https://docs.k3s.io/cli/agent and https://docs.k3s.io/cli/server have
// the others.
//
// A number after @ is the first minor version of which a release takes the
// option; without one, one of v1.26 does. k3s brings options to all minor
// versions that it maintains at the time, so it is the lowest that the release
// notes (https://docs.k3s.io/release-notes) or a backport name, or the lowest
// that was maintained then: earlier ones have no release with it, later ones may
// have releases without it.
const (
	bothOptions = `airgap-extra-registry alsologtostderr bind-address config container-runtime-endpoint data-dir debug default-runtime
		disable-default-registry-endpoint docker enable-pprof flannel-cni-conf flannel-conf flannel-iface
		image-credential-provider-bin-dir image-credential-provider-config image-service-endpoint kube-proxy-arg kubelet-arg
		lb-server-port log node-external-dns@28 node-external-ip node-internal-dns@28 node-ip node-label node-name node-taint
		nonroot-devices@28 pause-image prefer-bundled-bin private-registry protect-kernel-defaults resolv-conf rootless selinux server
		snapshotter token token-file v vmodule vpn-auth vpn-auth-file with-node-id`
	agentOptions  = `disable-apiserver-lb`
	serverOptions = `advertise-address advertise-port agent-token agent-token-file apiserver-bind-address apiserver-port cluster-cidr
		cluster-dns cluster-domain cluster-init cluster-reset cluster-reset-restore-path datastore-cafile datastore-certfile
		datastore-endpoint datastore-keyfile default-local-storage-path disable disable-agent disable-apiserver
		disable-cloud-controller disable-controller-manager disable-etcd disable-helm-controller disable-kube-proxy
		disable-network-policy disable-scheduler egress-selector-mode embedded-registry etcd-arg etcd-disable-snapshots
		etcd-expose-metrics etcd-s3 etcd-s3-access-key etcd-s3-bucket etcd-s3-bucket-lookup-type@30 etcd-s3-config-secret@27
		etcd-s3-endpoint etcd-s3-endpoint-ca etcd-s3-folder etcd-s3-insecure etcd-s3-proxy@27 etcd-s3-region etcd-s3-retention@31
		etcd-s3-secret-key etcd-s3-session-token@30 etcd-s3-skip-ssl-verify etcd-s3-timeout etcd-snapshot-compress etcd-snapshot-dir
		etcd-snapshot-name etcd-snapshot-reconcile-interval@28 etcd-snapshot-retention etcd-snapshot-schedule-cron flannel-backend
		flannel-external-ip flannel-ipv6-masq helm-controller-arg@33 helm-job-image https-listen-port kine-tls kube-apiserver-arg
		kube-cloud-controller-arg kube-cloud-controller-manager-arg kube-controller-arg kube-controller-manager-arg
		kube-scheduler-arg secrets-encryption secrets-encryption-provider@30 service-cidr service-node-port-range
		servicelb-namespace supervisor-metrics@27 supervisor-port system-default-registry tls-san tls-san-security write-kubeconfig
		write-kubeconfig-group@27 write-kubeconfig-mode write-kubeconfig-name@34`
)

// removedOptions are those that v1.26 took away (k3s-io/k3s#6574), with what
// takes their place. The documentation still has some.
var removedOptions = map[string]string{
	"cluster-secret": "k3s.token", "no-flannel": "flannel-backend: none on the servers", "no-deploy": "disable",
	"disable-selinux": "neither it nor selinux",
}

// shortOptions are the one-letter names of options. They mean the same in the
// config file, so they would be a way past what own refuses and secretOptions
// hides.
var shortOptions = map[string]string{
	"c": "config", "d": "data-dir", "i": "node-ip", "l": "log", "o": "write-kubeconfig", "s": "server", "t": "token",
}

// firstMinor is the first minor version of k3s that the lists are about.
const firstMinor = 26

// k3sOption says which k3s takes an option.
type k3sOption struct {
	agent, server bool
	since         int // minor version
}

// k3sOptions returns the options by their names.
var k3sOptions = sync.OnceValue(func() map[string]k3sOption {
	all := map[string]k3sOption{}
	add := func(list string, o k3sOption) {
		for _, word := range strings.Fields(list) {
			name, since, dated := strings.Cut(word, "@")
			o.since = firstMinor
			if dated {
				o.since, _ = strconv.Atoi(since) // a test reads them all
			}
			all[name] = o
		}
	}
	add(bothOptions, k3sOption{agent: true, server: true})
	add(agentOptions, k3sOption{agent: true})
	add(serverOptions, k3sOption{server: true})
	return all
})

func findOption(name string) (k3sOption, bool) {
	o, known := k3sOptions()[name]
	return o, known
}

// TakesOption reports whether k3s takes an option, by its full name, in its
// config file as a role, server or agent, from a minor version of v1 on.
func TakesOption(role, name string, minor int) bool {
	o, known := findOption(name)
	if !known || o.since > minor {
		return false
	}
	return role == "agent" && o.agent || role == "server" && o.server
}

// isServerOnly reports whether only servers take an option, with or without + at
// its end.
func isServerOnly(key string) bool {
	o, known := findOption(strings.TrimSuffix(key, "+"))
	return known && !o.agent
}

// K3sMinor returns the minor version that a version of k3s or of its package
// holds, such as 34 for v1.34.4+k3s1, 1.34.2.1-r6, or the address of a release;
// 0 where it is not known.
func K3sMinor(text string) int {
	for rest := text; ; {
		_, after, found := strings.Cut(rest, "1.")
		if !found {
			return 0
		}
		before := text[:len(text)-len(after)-len("1.")]
		digits := after[:len(after)-len(strings.TrimLeft(after, "0123456789"))]
		if minor, err := strconv.Atoi(digits); err == nil && strings.HasPrefix(after[len(digits):], ".") && minor >= 18 && minor < 100 &&
			(before == "" || strings.HasSuffix(before, "v")) {
			return minor
		}
		rest = after
	}
}
