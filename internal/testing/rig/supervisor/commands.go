package supervisor

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"time"
)

// Command is a program of a control plane.
type Command struct {
	Program string
	Args    []string
	// Option is the option of k3s that adds to Args, kube-apiserver-arg.
	Option string
	// NeedsAPI means that it must not start before the API server is ready.
	NeedsAPI bool
}

// Commands returns the programs of a control plane in the order of their start,
// with the arguments of k3s (pkg/daemons/control/server.go): kine on a sqlite
// file, the API server behind the supervisor, and what works with it. address is
// the node's, and socket where kine is to listen.
func (c Cluster) Commands(n Network, address, db, socket string) []Command {
	// kine has these defaults for a path of its own alone.
	endpoint := "sqlite://" + db + "?_journal_mode=WAL&_busy_timeout=30000&_synchronous=NORMAL&_txlock=immediate"
	kubeconfigs := func(name string) []string {
		k := c.Kubeconfig(name)
		return []string{
			"--kubeconfig=" + k, "--authentication-kubeconfig=" + k, "--authorization-kubeconfig=" + k, "--leader-elect=false",
			"--bind-address=127.0.0.1",
		}
	}
	return []Command{
		{"kine", []string{"--endpoint", endpoint, "--listen-address", "unix://" + socket, "--metrics-bind-address", "0"}, "", false},
		{"kube-apiserver", append(c.apiServer(n, address), "--etcd-servers=unix://"+socket), "kube-apiserver-arg", false},
		{"kube-controller-manager", append(kubeconfigs("controller"),
			"--service-account-private-key-file="+c.TLS("service.key"), "--root-ca-file="+c.TLS("server-ca.crt"),
			"--use-service-account-credentials=true", "--allocate-node-cidrs=true", "--cluster-cidr="+n.ClusterCIDR,
			"--service-cluster-ip-range="+n.ServiceCIDR, "--cluster-signing-cert-file="+c.TLS("client-ca.crt"),
			"--cluster-signing-key-file="+c.TLS("client-ca.key"), "--configure-cloud-routes=false", "--profiling=false",
		), "kube-controller-manager-arg", true},
		{"kube-scheduler", append(kubeconfigs("scheduler"), "--profiling=false"), "kube-scheduler-arg", true},
	}
}

func (c Cluster) apiServer(n Network, address string) []string {
	const issuer = "https://kubernetes.default.svc.cluster.local"
	return []string{
		"--secure-port=6444", "--bind-address=127.0.0.1", "--advertise-address=" + address,
		// k3s' own API server advertises the supervisor's port; this one has no such
		// flag, and Prepare makes the endpoint.
		"--endpoint-reconciler-type=none",
		"--tls-cert-file=" + c.TLS("serving-kube-apiserver.crt"), "--tls-private-key-file=" + c.TLS("serving-kube-apiserver.key"),
		"--client-ca-file=" + c.TLS("client-ca.crt"),
		"--service-account-key-file=" + c.TLS("service.key"), "--service-account-signing-key-file=" + c.TLS("service.key"),
		"--service-account-issuer=" + issuer, "--api-audiences=" + issuer + ",k3s",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--anonymous-auth=false", "--allow-privileged=true",
		"--service-cluster-ip-range=" + n.ServiceCIDR, "--service-node-port-range=30000-32767",
		"--kubelet-certificate-authority=" + c.TLS("server-ca.crt"), "--kubelet-client-certificate=" + c.TLS("client-kube-apiserver.crt"),
		"--kubelet-client-key=" + c.TLS("client-kube-apiserver.key"), "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
		"--requestheader-client-ca-file=" + c.TLS("request-header-ca.crt"), "--requestheader-allowed-names=system:auth-proxy",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + c.TLS("client-auth-proxy.crt"), "--proxy-client-key-file=" + c.TLS("client-auth-proxy.key"),
		"--profiling=false",
	}
}

// Prepare makes the objects of a new cluster, unless they are there: the rights
// that flannel on agents has with k3s (manifests/rolebindings.yaml), and the
// endpoint of the service kubernetes, which is the supervisor at an address.
func (s *Supervisor) Prepare(ctx context.Context, address string) error {
	const rbac = "/apis/rbac.authorization.k8s.io/v1/"
	for path, body := range map[string]string{
		rbac + "clusterroles": `{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
			"metadata": {"name": "system:k3s-controller"}, "rules": [
			{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch", "patch"]},
			{"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]}]}`,
		rbac + "clusterrolebindings": `{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
			"metadata": {"name": "system:k3s-controller"},
			"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:k3s-controller"},
			"subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:k3s-controller"}]}`,
		"/api/v1/namespaces/default/endpoints": fmt.Sprintf(`{"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "kubernetes"},
			"subsets": [{"addresses": [{"ip": %q}], "ports": [{"name": "https", "port": 6443}]}]}`, address),
	} {
		status, err := s.Do(ctx, http.MethodPost, path, body, nil)
		if err == nil && status != http.StatusCreated && status != http.StatusConflict {
			err = fmt.Errorf("creating %s: status %d", path, status)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Pair is a client's certificate and key, and the authority of the server, as files.
type Pair struct{ Cert, Key, CA string }

// Client returns an HTTP client; a nil dial connects as net does.
func (p Pair) Client(dial Dial) (*http.Client, error) {
	pair, err := tls.LoadX509KeyPair(p.Cert, p.Key)
	if err != nil {
		return nil, err
	}
	roots, err := pool(p.CA)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: dial, TLSClientConfig: cfg}}, nil
}
