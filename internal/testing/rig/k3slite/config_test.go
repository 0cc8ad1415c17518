package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestReadConfig: files are read as k3s reads them: later ones replace or, with +,
// add; an agent ends at an option it does not have, a server skips it.
func TestReadConfig(t *testing.T) {
	version = "v1.34.4"
	dir := t.TempDir()
	for name, text := range map[string]string{
		"config.yaml":               "node-name: attic\nnode-label+: [b=c]\nnode-label: [a=b]\nkubelet-arg: [max-pods=30]\ntoken: secret\n",
		"config.yaml.d/10-more.yml": "node-label+: [c=d]\nkubelet-arg: [max-pods=40]\n",
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o, err := readConfig("agent", dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := o["node-label"], []string{"a=b", "b=c", "c=d"}; !slices.Equal(got, want) {
		t.Errorf("labels: got %q, want %q", got, want)
	}
	if got, want := o.arguments("kubelet-arg"), []string{"--max-pods=40"}; !slices.Equal(got, want) {
		t.Errorf("arguments of the kubelet: got %q, want %q", got, want)
	}
	if strings.Contains(o.names(), "secret") {
		t.Error("the token is among what is logged")
	}
	more := filepath.Join(dir, "config.yaml.d", "20-server.yaml")
	if err := os.WriteFile(more, []byte("tls-san: [10.0.0.1]\nno-such-option: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readConfig("agent", dir); err == nil || !strings.Contains(err.Error(), "flag provided but not defined: -no-such-option") {
		t.Errorf("an agent: got %v", err)
	}
	o, err = readConfig("server", dir)
	if err != nil || o["no-such-option"] != nil || o.one("tls-san") != "10.0.0.1" {
		t.Errorf("a server: got %v, %v", o, err)
	}
}
