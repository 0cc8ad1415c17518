// Command k3s stands in for k3s in tests. It reads the files k3s reads, holds
// the ports k3s holds, answers its health endpoints and runs nothing. Of options
// it does not know, those of docs/platform.md 7.2, it does what k3s does: a
// server skips them with a warning, an agent fails.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"
)

const serverOptions = `cluster-init server token agent-token token-file tls-san cluster-cidr service-cidr cluster-dns cluster-domain
	flannel-backend disable disable-network-policy disable-kube-proxy disable-cloud-controller disable-helm-controller secrets-encryption
	datastore-endpoint etcd-expose-metrics etcd-snapshot-schedule-cron etcd-snapshot-retention etcd-snapshot-dir etcd-snapshot-compress
	etcd-s3 etcd-s3-endpoint etcd-s3-bucket etcd-s3-folder etcd-s3-region etcd-s3-access-key etcd-s3-secret-key etcd-s3-config-secret
	cluster-reset cluster-reset-restore-path embedded-registry supervisor-metrics egress-selector-mode write-kubeconfig write-kubeconfig-mode`

const agentOptions = `node-name with-node-id node-label node-taint node-ip node-external-ip kubelet-arg kube-proxy-arg protect-kernel-defaults
	snapshotter private-registry container-runtime-endpoint pause-image resolv-conf flannel-iface data-dir selinux image-service-endpoint
	disable-default-registry-endpoint lb-server-port vpn-auth-file server token token-file`

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "k3s stand-in:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 || os.Args[1] != "server" && os.Args[1] != "agent" {
		return fmt.Errorf("usage: k3s server|agent, not %q", os.Args[1:])
	}
	role := os.Args[1]
	options, err := readConfig("/etc/rancher/k3s/config.yaml")
	if err != nil {
		return err
	}
	known := strings.Fields(agentOptions)
	if role == "server" {
		known = append(known, strings.Fields(serverOptions)...)
	}
	for name := range options {
		found := false
		for _, k := range known {
			found = found || strings.TrimSuffix(name, "+") == k
		}
		if !found {
			if role == "agent" {
				return fmt.Errorf("flag provided but not defined: -%s", name)
			}
			fmt.Printf("k3s stand-in: Unknown flag --%s found in config.yaml, skipping\n", name)
			delete(options, name)
		}
	}
	if role == "agent" && (options["server"] == "" || options["token"] == "") {
		return fmt.Errorf("an agent needs server and token")
	}
	// k3s of August 2024 and later keeps its data there (k3s-io/k3s#10589).
	if dir := os.Getenv("K3S_DATA_DIR"); dir != "" {
		return fmt.Errorf("K3S_DATA_DIR moves the data to %s", dir)
	}
	password, err := os.ReadFile("/etc/rancher/node/password")
	if err != nil {
		return err
	}
	if st, err := os.Stat("/etc/rancher/node/password"); err != nil || st.Mode().Perm() != 0o600 || len(strings.TrimSpace(string(password))) != 32 {
		return fmt.Errorf("the node password is not 32 digits of mode 0600 (%v)", err)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs("/var/lib/rancher", &fs); err != nil || fs.Type != 0xef53 {
		return fmt.Errorf("/var/lib/rancher is no ext4: %x (%v)", fs.Type, err)
	}
	images, _ := filepath.Glob("/var/lib/rancher/k3s/agent/images/*")
	manifests, _ := filepath.Glob("/var/lib/rancher/k3s/server/manifests/*")
	for _, list := range [][]string{images, manifests} {
		sort.Strings(list)
		for _, name := range list {
			if b, err := os.ReadFile(name); err != nil || len(b) == 0 {
				return fmt.Errorf("%s can't be read (%v)", name, err)
			}
		}
	}
	fmt.Printf("k3s stand-in: %s at %s, path %s, options %v, images %v, manifests %v\n", role, time.Now().UTC().Format(time.RFC3339), os.Getenv("PATH"), options, images, manifests)
	if _, err := os.ReadFile("/etc/rancher/k3s/registries.yaml"); err == nil {
		fmt.Println("k3s stand-in: it has a registries.yaml")
	}
	ok := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("ok")) })
	for _, address := range []string{"127.0.0.1:10248", "127.0.0.1:10256"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		go http.Serve(l, ok)
	}
	secure := []string{":10250", "127.0.0.1:6444"}
	if role == "server" {
		secure = append(secure, ":6443")
	}
	cert, err := certificate()
	if err != nil {
		return err
	}
	for _, address := range secure {
		l, err := tls.Listen("tcp", address, &tls.Config{Certificates: []tls.Certificate{cert}})
		if err != nil {
			return err
		}
		mux := http.NewServeMux()
		mux.HandleFunc("/ping", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("pong")) })
		mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
		go http.Serve(l, mux)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	return nil
}

// readConfig reads the flat YAML that config.yaml is: keys, and lists below
// them.
func readConfig(name string) (map[string]string, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	options, last := map[string]string{}, ""
	for _, line := range strings.Split(string(b), "\n") {
		text := strings.TrimSpace(line)
		switch {
		case text == "" || strings.HasPrefix(text, "#"):
		case strings.HasPrefix(text, "- "):
			options[last] += strings.TrimPrefix(text, "- ") + " "
		default:
			key, value, found := strings.Cut(line, ":")
			if !found || strings.HasPrefix(line, " ") {
				return nil, fmt.Errorf("%s: %q is no option", name, line)
			}
			last = key
			options[key] = strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return options, nil
}

func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "k3s"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
