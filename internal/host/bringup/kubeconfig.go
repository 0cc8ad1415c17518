package bringup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/pikelet-os/pikelet/internal/shared/atomicfile"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Kubeconfig is how a cluster is reached by whoever administers it.
type Kubeconfig struct {
	server  string
	ca      []byte // PEM
	certPEM []byte
	keyPEM  []byte
}

// ReadKubeconfig reads a kubeconfig as k3s writes it. Nothing but certificates, key and
// address is taken from it: what a node says must not have kubectl run programs.
func ReadKubeconfig(b []byte) (Kubeconfig, error) {
	c, err := clientcmd.Load(b)
	if err != nil {
		return Kubeconfig{}, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	x, ok := c.Contexts[c.CurrentContext]
	if !ok {
		return Kubeconfig{}, fmt.Errorf("reading the kubeconfig: no context %q", c.CurrentContext)
	}
	cluster, user := c.Clusters[x.Cluster], c.AuthInfos[x.AuthInfo]
	if cluster == nil || user == nil {
		return Kubeconfig{}, errors.New("reading the kubeconfig: it has no cluster, or no user")
	}
	k := Kubeconfig{cluster.Server, cluster.CertificateAuthorityData, user.ClientCertificateData, user.ClientKeyData}
	if len(k.ca) == 0 || len(k.certPEM) == 0 || len(k.keyPEM) == 0 {
		return Kubeconfig{}, errors.New("reading the kubeconfig: want an authority, a certificate and a key in it")
	}
	return k, nil
}

// At returns the kubeconfig with another host of the API server; the port stays.
func (k Kubeconfig) At(host string) (Kubeconfig, error) {
	u, err := url.Parse(k.server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return k, fmt.Errorf("reading the kubeconfig: %q is not the address of an API server", k.server)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	k.server = "https://" + net.JoinHostPort(host, port)
	return k, nil
}

// Server returns the address of the API server.
func (k Kubeconfig) Server() string { return k.server }

// Encode returns the kubeconfig as a file.
func (k Kubeconfig) Encode(name string) ([]byte, error) {
	c := api.NewConfig()
	c.Clusters[name] = &api.Cluster{Server: k.server, CertificateAuthorityData: k.ca}
	c.AuthInfos[name] = &api.AuthInfo{ClientCertificateData: k.certPEM, ClientKeyData: k.keyPEM}
	c.Contexts[name] = &api.Context{Cluster: name, AuthInfo: name}
	c.CurrentContext = name
	return clientcmd.Write(*c)
}

// ErrOtherCluster is returned by Write for a file of another cluster, or of something
// else.
var ErrOtherCluster = errors.New("not the kubeconfig of this cluster")

// Write writes the kubeconfig to a file that only its owner reads. A file that is there
// is replaced only if it is of the same cluster, by its certificate authority, or if
// overwrite says so.
func (k Kubeconfig) Write(file, name string, overwrite bool) error {
	old, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && overwrite:
	case err != nil:
		return err
	default:
		if was, err := ReadKubeconfig(old); err != nil || !bytes.Equal(was.ca, k.ca) {
			return hint.With(fmt.Errorf("%s is %w, and is left as it is", file, ErrOtherCluster), "name another file with --kubeconfig")
		}
	}
	b, err := k.Encode(name)
	if err != nil {
		return err
	}
	return atomicfile.Write(file, b, 0o600)
}
