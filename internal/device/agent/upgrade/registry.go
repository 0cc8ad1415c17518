package upgrade

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// registryOptions are what the node config says of the registry of a
// reference: who asks, and whom to trust.
func registryOptions(cfg *nodeconfig.Config, ref string, plain bool) (registry.Options, error) {
	o := registry.Options{PlainHTTP: plain, UserAgent: "pikeletd"}
	host, _, _ := strings.Cut(ref, "/")
	r, ok := cfg.Registries.Configs[host]
	if !ok {
		return o, nil
	}
	if a := r.Auth; a != (nodeconfig.RegistryAuth{}) {
		o.Keychain = account(authn.AuthConfig{Username: a.Username, Password: a.Password, Auth: a.Auth, IdentityToken: a.IdentityToken})
	}
	if err := addTLS(&o, r.TLS); err != nil {
		return o, fmt.Errorf("registries.configs.%s.tls.%w", host, err)
	}
	return o, nil
}

// addTLS adds whom to trust, and what to show.
func addTLS(o *registry.Options, t nodeconfig.RegistryTLS) error {
	o.SkipVerify = t.InsecureSkipVerify
	if t.CAFile != "" {
		b, err := os.ReadFile(t.CAFile)
		if err != nil {
			return fmt.Errorf("ca_file: %w", err)
		}
		o.CA = x509.NewCertPool()
		if !o.CA.AppendCertsFromPEM(b) {
			return fmt.Errorf("ca_file: no certificate in %q", t.CAFile)
		}
	}
	switch {
	case t.CertFile == "" && t.KeyFile == "":
		return nil
	case t.CertFile == "" || t.KeyFile == "":
		return errors.New("cert_file and key_file go together, and one of them is missing")
	}
	c, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return fmt.Errorf("cert_file: %w", err)
	}
	o.Certificate = &c
	return nil
}

// account is who asks one registry.
type account authn.AuthConfig

// Resolve implements authn.Keychain.
func (a account) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig(a)), nil
}
