// Package supervisor is port 6443 of a k3s server for tests: the authorities and
// tokens of a cluster, and what agents join by. Names of files and paths are
// k3s' own (https://github.com/k3s-io/k3s, pkg/daemons/control/deps/deps.go and
// pkg/server/handlers/router.go).
package supervisor

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The files of a cluster in the directory of a k3s server.
const (
	tlsDir    = "tls"
	credDir   = "cred"
	tokenFile = "token"
)

// Cluster is the directory of a k3s server, /var/lib/rancher/k3s/server on a node:
// its authorities, certificates, kubeconfigs and token.
type Cluster struct{ Dir string }

// TLS returns the path of a certificate or key.
func (c Cluster) TLS(name string) string { return filepath.Join(c.Dir, tlsDir, name) }

// Kubeconfig returns the path of the kubeconfig of admin, controller or scheduler.
func (c Cluster) Kubeconfig(name string) string {
	return filepath.Join(c.Dir, credDir, name+".kubeconfig")
}

// Token returns the token by which nodes join, in its full form.
func (c Cluster) Token() (string, error) {
	b, err := os.ReadFile(filepath.Join(c.Dir, tokenFile))
	return strings.TrimSpace(string(b)), err
}

// leaf is a certificate of the control plane.
type leaf struct {
	file, authority, name string
	groups                []string
}

// controlPlane are the certificates of a server, with the names and groups that
// Kubernetes gives rights to.
var controlPlane = []leaf{
	{"serving-kube-apiserver", "server-ca", "kube-apiserver", nil},
	{"client-admin", "client-ca", "system:admin", []string{"system:masters"}},
	{"client-controller", "client-ca", "system:kube-controller-manager", nil},
	{"client-scheduler", "client-ca", "system:kube-scheduler", nil},
	{"client-kube-apiserver", "client-ca", "system:apiserver", []string{"system:masters"}},
	{"client-auth-proxy", "request-header-ca", "system:auth-proxy", nil},
}

// Create makes what a cluster needs, unless it is there. password is the secret
// part of the token, which a server takes from its option token; "" for a random
// one. The API server's certificate is valid for addresses, loopback and the
// first address of the services.
func Create(dir, password string, addresses ...net.IP) (Cluster, error) {
	c := Cluster{dir}
	if err := errors.Join(os.MkdirAll(c.TLS(""), 0o700), os.MkdirAll(filepath.Join(dir, credDir), 0o700)); err != nil {
		return c, err
	}
	if _, err := os.Stat(c.TLS("server-ca.crt")); errors.Is(err, fs.ErrNotExist) {
		if err := c.authorities(); err != nil {
			return c, err
		}
	}
	names := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"}
	ips := append([]net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 43, 0, 1)}, addresses...)
	for _, l := range controlPlane {
		der, key, err := c.issue(l.authority, pkix.Name{CommonName: l.name, Organization: l.groups}, names, ips)
		if err == nil {
			err = c.save(l.file, der, key)
		}
		if err != nil {
			return c, fmt.Errorf("issuing %s: %w", l.file, err)
		}
	}
	for _, name := range []string{"admin", "controller", "scheduler"} {
		text := Kubeconfig("https://127.0.0.1:6444", c.TLS("server-ca.crt"), c.TLS("client-"+name+".crt"), c.TLS("client-"+name+".key"))
		if err := os.WriteFile(c.Kubeconfig(name), []byte(text), 0o600); err != nil {
			return c, err
		}
	}
	return c, c.makeToken(password)
}

// Kubeconfig returns a kubeconfig of a user whose certificate and key are files.
func Kubeconfig(server, authority, cert, key string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: default
  cluster:
    server: %s
    certificate-authority: %s
users:
- name: default
  user:
    client-certificate: %s
    client-key: %s
contexts:
- name: default
  context:
    cluster: default
    user: default
current-context: default
`, server, authority, cert, key)
}

// authorities makes the three authorities and the key of service accounts.
func (c Cluster) authorities() error {
	for _, name := range []string{"client-ca", "request-header-ca", "server-ca"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		t, err := template(pkix.Name{CommonName: "k3s-" + name}, 3650)
		if err != nil {
			return err
		}
		t.IsCA, t.BasicConstraintsValid = true, true
		t.KeyUsage |= x509.KeyUsageCertSign | x509.KeyUsageKeyEncipherment
		der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
		if err == nil {
			err = c.save(name, der, key)
		}
		if err != nil {
			return fmt.Errorf("making the authority %s: %w", name, err)
		}
	}
	accounts, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(accounts)})
	return os.WriteFile(c.TLS("service.key"), b, 0o600)
}

// makeToken writes the token: a digest of the server's authority, by which a node
// knows the cluster, and the secret by which the cluster knows the node
// (https://docs.k3s.io/cli/token).
func (c Cluster) makeToken(password string) error {
	name := filepath.Join(c.Dir, tokenFile)
	if password == "" {
		if _, err := os.Stat(name); err == nil {
			return nil
		}
		password = rand.Text()
	}
	if full, is := strings.CutPrefix(password, "K10"); is {
		_, password, _ = strings.Cut(full, "::server:")
	}
	ca, err := os.ReadFile(c.TLS("server-ca.crt"))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(ca)
	if err := os.WriteFile(name, []byte("K10"+hex.EncodeToString(sum[:])+"::server:"+password+"\n"), 0o600); err != nil {
		return err
	}
	os.Remove(filepath.Join(c.Dir, "node-token"))
	return os.Symlink(tokenFile, filepath.Join(c.Dir, "node-token"))
}

func template(subject pkix.Name, days int) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	// Guests' clocks may be behind.
	return &x509.Certificate{
		SerialNumber: serial, Subject: subject, NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(0, 0, days),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}, nil
}

// issue makes a certificate for servers and clients, of a year.
func (c Cluster) issue(authority string, subject pkix.Name, names []string, ips []net.IP) ([]byte, *ecdsa.PrivateKey, error) {
	pair, err := tls.LoadX509KeyPair(c.TLS(authority+".crt"), c.TLS(authority+".key"))
	if err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t, err := template(subject, 365)
	if err != nil {
		return nil, nil, err
	}
	t.DNSNames, t.IPAddresses = names, ips
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, t, pair.Leaf, &key.PublicKey, pair.PrivateKey)
	return der, key, err
}

// save writes a certificate and its key.
func (c Cluster) save(name string, der []byte, key crypto.Signer) error {
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(c.TLS(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}), 0o600),
		os.WriteFile(c.TLS(name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
}
