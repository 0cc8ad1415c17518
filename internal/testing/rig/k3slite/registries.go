package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// registries is k3s' registries.yaml (https://docs.k3s.io/installation/private-registry).
type registries struct {
	Mirrors map[string]struct {
		Endpoint []string          `yaml:"endpoint"`
		Rewrite  map[string]string `yaml:"rewrite"`
	} `yaml:"mirrors"`
	Configs map[string]struct {
		Auth struct{ Username, Password string } `yaml:"auth"`
		TLS  struct {
			CAFile   string `yaml:"ca_file"`
			CertFile string `yaml:"cert_file"`
			KeyFile  string `yaml:"key_file"`
			Insecure bool   `yaml:"insecure_skip_verify"`
		} `yaml:"tls"`
	} `yaml:"configs"`
}

// writeRegistries writes containerd's hosts.toml of each registry, and returns
// the part of containerd's configuration that has the logins.
func writeRegistries(file, dir string) (auth string, err error) {
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var r registries
	if err := yaml.Unmarshal(b, &r); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Mirrors)) {
		var text strings.Builder
		for _, endpoint := range r.Mirrors[name].Endpoint {
			u, err := url.Parse(endpoint)
			if err != nil {
				return "", fmt.Errorf("%s: endpoint of %s: %w", file, name, err)
			}
			fmt.Fprintf(&text, "[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", strings.TrimSuffix(endpoint, "/"))
			if c := r.Configs[u.Host]; c.TLS.Insecure {
				text.WriteString("  skip_verify = true\n")
			} else if c.TLS.CAFile != "" {
				fmt.Fprintf(&text, "  ca = %q\n", c.TLS.CAFile)
			}
		}
		if name == "*" {
			name = "_default"
		}
		if err := write(filepath.Join(dir, name, "hosts.toml"), []byte(text.String())); err != nil {
			return "", err
		}
	}
	for _, host := range slices.Sorted(maps.Keys(r.Configs)) {
		if a := r.Configs[host].Auth; a.Username != "" {
			const text = "[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.%q.auth]\n  username = %q\n  password = %q\n"
			auth += fmt.Sprintf(text, host, a.Username, a.Password)
		}
	}
	return auth, nil
}
