package k3s

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/device/datastore"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// place writes files below a directory.
func place(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func newCA(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestServersStartAlone: when a server does not start, and when it does.
func TestServersStartAlone(t *testing.T) {
	const old = "10.0.0.1:6443" // where a server of the cluster answers
	origin := map[string]string{datastore.RestoredFile: `{"answers":"10.0.0.1:6443 vip.example:6443"}`}
	mark := map[string]string{"pikelet/moved.json": `{"id":"01","to":"loft","at":"2026-11-30T03:00:00Z"}`}
	for name, c := range map[string]struct {
		server, next map[string]string // nil for none
		option       string
		value        any
		want         string
	}{
		"a first start":                     {server: map[string]string{"manifests/x": ""}},
		"a server that was never elsewhere": {server: map[string]string{}},
		"a restored one":                    {server: origin, want: old},
		"one that is about to be one":       {server: map[string]string{}, next: origin, want: old},
		"one of several":                    {server: origin, option: "cluster-init", value: true},
		"one of several by an endpoint":     {server: origin, option: "datastore-endpoint", value: "mysql://"},
		"one of etcd's": {
			server: map[string]string{datastore.RestoredFile: origin[datastore.RestoredFile], "db/etcd/x": ""}},
		"one whose address answers elsewhere":      {server: map[string]string{}, option: "tls-san", value: []any{"vip", "10.0.0.1"}, want: old},
		"one that moved":                           {server: mark, want: "moved to loft"},
		"one that moved, of several":               {server: mark, option: "cluster-init", value: true, want: "moved to loft"},
		"one whose mark is damaged":                {server: map[string]string{"pikelet/moved.json": "{"}, want: "not known"},
		"one that comes back":                      {server: mark, next: map[string]string{}},
		"one that comes back while the other runs": {server: mark, next: origin, want: old},
		"one whose origin is damaged":              {server: map[string]string{datastore.RestoredFile: "{"}, want: "unexpected end"},
	} {
		dir := filepath.Join(t.TempDir(), "server")
		place(t, dir, c.server)
		ca := map[string]string{"tls/server-ca.crt": newCA(t)}
		if name != "a first start" {
			place(t, dir, ca)
		}
		if c.next != nil {
			place(t, datastore.Restored(dir), c.next)
			place(t, datastore.Restored(dir), ca)
		}
		cfg := &nodeconfig.Config{K3s: nodeconfig.K3s{Role: "server", Options: nodeconfig.Options{"node-ip": "10.0.0.9", c.option: c.value}}}
		asked := ""
		got := notAlone(cfg, dir, func(addresses []string, cluster string) string {
			if asked = cluster; slices.Contains(addresses, old) {
				return old
			}
			return ""
		})
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
		if asked != "" && !strings.HasPrefix(asked, "sha256:") {
			t.Errorf("%s: asked for cluster %q", name, asked)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		options nodeconfig.Options
		want    string
	}{
		{nodeconfig.Options{"node-ip": "10.0.0.2"}, "10.0.0.2:6443"},
		{nodeconfig.Options{"node-ip": "10.0.0.2,fd00::2", "https-listen-port": 7443}, "10.0.0.2:7443 [fd00::2]:7443"},
		{nodeconfig.Options{"node-ip": []any{"10.0.0.2"}, "tls-san": []any{"vip.example", " "}}, "10.0.0.2:6443 vip.example:6443"},
	} {
		if got := Addresses(&nodeconfig.Config{K3s: nodeconfig.K3s{Options: c.options}}); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
