package k3s

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// TestReleaseEnv: network plugins go where they can be added to, and nothing
// moves k3s' data into the root.
func TestReleaseEnv(t *testing.T) {
	const cni, bin, aux = "/var/lib/rancher/k3s/data/cni:", "/usr/lib/k3s/bin:", "/usr/lib/k3s/bin/aux"
	for _, c := range []struct {
		option any
		want   string
	}{
		{nil, cni + bin + "/usr/sbin:/usr/bin:" + aux},
		{false, cni + bin + "/usr/sbin:/usr/bin:" + aux},
		{true, cni + bin + aux + ":/usr/sbin:/usr/bin"},
		{"true", cni + bin + aux + ":/usr/sbin:/usr/bin"},
	} {
		k := nodeconfig.K3s{Options: map[string]any{"prefer-bundled-bin": c.option}}
		env := releaseEnv([]string{"PATH=/usr/sbin:/usr/bin", "LANG=C", "K3S_DATA_DIR=/x"}, bundledFirst(k))
		want := []string{"LANG=C", "PATH=" + c.want}
		if !slices.Equal(env, want) {
			t.Errorf("prefer-bundled-bin %v: got %q, want %q", c.option, env, want)
		}
	}
}

// TestLinkPlugins: an upgrade takes away what a release no longer has, and
// leaves what multus and people put there.
func TestLinkPlugins(t *testing.T) {
	bin, dir := t.TempDir(), filepath.Join(t.TempDir(), "data", "cni")
	release := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if err := os.Symlink("cni", filepath.Join(bin, name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := linkPlugins(dir, bin); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"cni", "k3s"} {
		if err := os.WriteFile(filepath.Join(bin, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("k3s", filepath.Join(bin, "kubectl")); err != nil {
		t.Fatal(err)
	}
	names := func() (list []string) {
		t.Helper()
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			list = append(list, e.Name())
		}
		return list
	}
	release("host-local", "bandwidth")
	if got, want := names(), []string{"bandwidth", "cni", "host-local"}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	if to, err := filepath.EvalSymlinks(filepath.Join(dir, "host-local")); err != nil || filepath.Base(to) != "cni" {
		t.Errorf("host-local leads to %s, %v, want cni", to, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "multus"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(bin, "bandwidth")); err != nil {
		t.Fatal(err)
	}
	release("firewall")
	if got, want := names(), []string{"cni", "firewall", "host-local", "multus"}; !slices.Equal(got, want) {
		t.Errorf("after an upgrade: got %q, want %q", got, want)
	}
}

// TestKubeconfig: the file that k3s writes where nothing else is asked of it, or the one
// that is.
func TestKubeconfig(t *testing.T) {
	cfg := &nodeconfig.Config{}
	if got := Kubeconfig(cfg); got != "/etc/rancher/k3s/k3s.yaml" {
		t.Errorf("got %s", got)
	}
	cfg.K3s.Options = map[string]any{"write-kubeconfig": "/root/admin.yaml"}
	if got := Kubeconfig(cfg); got != "/root/admin.yaml" {
		t.Errorf("got %s", got)
	}
}
