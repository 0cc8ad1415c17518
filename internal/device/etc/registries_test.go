package etc

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/rancher/wharfie/pkg/registries"
	yamlv2 "gopkg.in/yaml.v2"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// TestRegistriesAsK3sReadsThem: k3s' own parser finds in registries.yaml what
// a config says, and knows each of its keys.
func TestRegistriesAsK3sReadsThem(t *testing.T) {
	in := input(t, "", everything...)
	in.Config = &nodeconfig.Config{Registries: nodeconfig.Registries{
		Mirrors: map[string]nodeconfig.Mirror{"docker.io": {Endpoint: []string{"https://mirror.test:5000"},
			Rewrite: map[string]string{"^library/(.*)": "hub/$1"}}},
		Configs: map[string]nodeconfig.Registry{"mirror.test:5000": {
			Auth: nodeconfig.RegistryAuth{Username: "0123", Password: "yes", Auth: "MDEyMzp5ZXM=", IdentityToken: "1e3"},
			// each is a number or a boolean to YAML
			TLS: nodeconfig.RegistryTLS{CAFile: "/etc/ca.pem", CertFile: "/etc/cert.pem", KeyFile: "/etc/key.pem", InsecureSkipVerify: true},
		}},
	}}
	var written []byte
	files, _ := Files(in)
	for _, f := range files {
		if f.Path == "/etc/rancher/k3s/registries.yaml" {
			written = []byte(f.Content)
		}
	}
	if err := yamlv2.UnmarshalStrict(written, &registries.Registry{}); err != nil {
		t.Errorf("k3s does not know all of\n%s%v", written, err)
	}
	name := filepath.Join(t.TempDir(), "registries.yaml")
	if err := os.WriteFile(name, written, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := registries.GetPrivateRegistries(name)
	if err != nil {
		t.Fatal(err)
	}
	want := &registries.Registry{
		Mirrors: map[string]registries.Mirror{"docker.io": {Endpoints: []string{"https://mirror.test:5000"},
			Rewrites: map[string]string{"^library/(.*)": "hub/$1"}}},
		Configs: map[string]registries.RegistryConfig{"mirror.test:5000": {
			Auth: &registries.AuthConfig{Username: "0123", Password: "yes", Auth: "MDEyMzp5ZXM=", IdentityToken: "1e3"},
			TLS:  &registries.TLSConfig{CAFile: "/etc/ca.pem", CertFile: "/etc/cert.pem", KeyFile: "/etc/key.pem", InsecureSkipVerify: true},
		}},
	}
	if !reflect.DeepEqual(got.Registry, want) {
		t.Errorf("k3s reads %+v of\n%s", got.Registry, written)
	}
}

// TestKeysThatK3sDoesNotReadAreRefused: wharfie skips a key that it does not know,
// and images would be pulled without a login.
func TestKeysThatK3sDoesNotReadAreRefused(t *testing.T) {
	const text = "registries:\n  configs:\n    mirror.test:\n      auth: {KEY: x}\n"
	for _, key := range []string{"token", "identityToken", "registrytoken"} {
		written := strings.Replace(text, "KEY", key, 1)
		if err := yamlv2.UnmarshalStrict([]byte("configs: {mirror.test: {auth: {"+key+": x}}}"), &registries.Registry{}); err == nil {
			t.Errorf("k3s knows the key %s", key)
		}
		_, err := nodeconfig.Parse("node.yaml", []byte(written))
		if err == nil || !strings.Contains(err.Error(), "node.yaml:4: "+key+": there is no such field") {
			t.Errorf("%s: got %v, want an error with its line", key, err)
		}
	}
	if _, err := nodeconfig.Parse("node.yaml", []byte(strings.Replace(text, "KEY", "identity_token", 1))); err != nil {
		t.Errorf("identity_token: %v", err)
	}
}
