package apiserver

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"

	yaml "go.yaml.in/yaml/v3"
)

// kubeconfig is what Open needs of such a file
// (https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/). k3s writes
// paths for its own programs and data for people.
type kubeconfig struct {
	Clusters []struct {
		Cluster struct {
			Server string `yaml:"server"`
			CA     string `yaml:"certificate-authority"`
			CAData string `yaml:"certificate-authority-data"`
		} `yaml:"cluster"`
	} `yaml:"clusters"`
	Users []struct {
		User struct {
			Cert     string `yaml:"client-certificate"`
			CertData string `yaml:"client-certificate-data"`
			Key      string `yaml:"client-key"`
			KeyData  string `yaml:"client-key-data"`
		} `yaml:"user"`
	} `yaml:"users"`
}

// readKubeconfig returns the address that a kubeconfig names and how to talk
// TLS to it. The error is ErrNotJoined where there is no such file.
func readKubeconfig(name string) (server string, config *tls.Config, err error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, fmt.Errorf("%w: there is no %s", ErrNotJoined, name)
	}
	if err != nil {
		return "", nil, err
	}
	var k kubeconfig
	if err := yaml.Unmarshal(text, &k); err != nil {
		return "", nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(k.Clusters) == 0 || len(k.Users) == 0 {
		return "", nil, fmt.Errorf("%s names no cluster or no user", name)
	}
	cluster, user := k.Clusters[0].Cluster, k.Users[0].User
	if u, err := url.Parse(cluster.Server); err != nil || u.Scheme != "https" || u.Host == "" {
		return "", nil, fmt.Errorf("%s: server %q: want an https address", name, cluster.Server)
	}
	ca, err := fileOrData(cluster.CA, cluster.CAData)
	if err != nil {
		return "", nil, fmt.Errorf("%s: certificate authority: %w", name, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return "", nil, fmt.Errorf("%s: the certificate authority holds no certificate", name)
	}
	certText, err := fileOrData(user.Cert, user.CertData)
	if err != nil {
		return "", nil, fmt.Errorf("%s: client certificate: %w", name, err)
	}
	keyText, err := fileOrData(user.Key, user.KeyData)
	if err != nil {
		return "", nil, fmt.Errorf("%s: client key: %w", name, err)
	}
	cert, err := tls.X509KeyPair(certText, keyText)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", name, err)
	}
	return cluster.Server, &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}, nil
}

// fileOrData returns what data holds in base64, or else the file of that name.
func fileOrData(name, data string) ([]byte, error) {
	if data != "" {
		return base64.StdEncoding.DecodeString(data)
	}
	return os.ReadFile(name)
}
