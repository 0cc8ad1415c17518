//go:build cluster

package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/rollout"
)

// desk is a computer with the pikelet command, in the network of a cluster.
type desk struct {
	c   *cluster
	key string // the file of the public key that it trusts
}

func newDesk(c *cluster) desk {
	c.t.Helper()
	key, err := testKey()
	if err != nil {
		c.t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		c.t.Fatal(err)
	}
	name := filepath.Join(c.t.TempDir(), "test.pub")
	writeFile(c.t, name, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), 0o644)
	return desk{c, name}
}

// command is pikelet with the cluster's kubeconfig.
func (d desk) command(args ...string) *exec.Cmd {
	d.c.t.Helper()
	program, err := filepath.Abs("../../../build/pikelet")
	if err != nil {
		d.c.t.Fatal(err)
	}
	args = append(args, "--kubeconfig", d.c.Kubeconfig())
	if args[0] == "upgrade" || args[1] == "plan" {
		args = append(args, "--plain-http", "--key", d.key)
	}
	return d.c.lan.Command(d.c.lan.Name, append([]string{program}, args...)...)
}

// says runs pikelet, and checks its exit status and that it prints some texts.
func (d desk) says(status int, want []string, args ...string) {
	d.c.t.Helper()
	cmd := d.command(args...)
	out, _ := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != status {
		d.c.t.Errorf("pikelet %s: exit status %d, want %d\n%s", strings.Join(args, " "), got, status, out)
	}
	for _, text := range want {
		if !strings.Contains(string(out), text) {
			d.c.t.Errorf("pikelet %s: does not print %q:\n%s", strings.Join(args, " "), text, out)
		}
	}
}

// TestClusterUpgradeFromDesk: a computer with a kubeconfig upgrades a cluster that
// has no controller: it shows what it would do, stops and goes on, halts at a bad
// release, and goes back.
func TestClusterUpgradeFromDesk(t *testing.T) {
	c := newCluster(t)
	c.registry()
	d, f := newDesk(c), newFleet(t, c, 4, "0")
	good := c.publish(clusterImage(t, "1.0", nil))
	f.bad = c.publish(clusterImage(t, "1.1", nil))
	c.apply(web(7, 7))
	c.must("rollout", "status", "deployment/web", "--timeout=5m")
	c.until("all nodes say what they run", func() bool {
		return strings.Count(c.must("get", "nodes", "-o", "yaml"), rollout.ImageKey+":") == 4
	})
	d.says(1, []string{"the cluster does not know rollouts"}, "rollout", "status")
	d.says(0, []string{"release 1.0", "fake-1", "server", "fake-4", "evicts default/web-",
		"the disruption budget web allows no disruption now"},
		"upgrade", "--dry-run", registryAt+"/lab:1.0")
	if got := f.restarted(); len(got) > 0 {
		t.Errorf("a plan restarts %q", got)
	}
	c.must("delete", "poddisruptionbudget", "web")

	upgrade := []string{"upgrade", registryAt + "/lab:1.0", "--name", "lab", "--soak", "2s"}
	first := d.command(upgrade...)
	var out bytes.Buffer
	first.Stdout, first.Stderr = &out, &out
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	c.until("a node restarts", func() bool { return len(f.restarted()) > 0 })
	d.interrupt(first)
	first.Wait()
	if got := first.ProcessState.ExitCode(); got != 1 || !strings.Contains(out.String(), "the rollout was stopped before its end") {
		t.Errorf("interrupted: exit status %d\n%s", got, out.String())
	}
	d.says(0, []string{"lab: Paused", "nodes run " + registryAt + "/lab@" + good}, "rollout", "status")
	c.noneCordoned(4)
	if got := f.restarted(); len(got) == 4 {
		t.Errorf("an interrupted upgrade goes on: %q", got)
	}
	d.says(0, []string{"lab: Complete, 4 of 4 nodes run"}, upgrade...)

	d.says(3, []string{"lab: Halted", "fake-1: volume: it never comes"},
		"upgrade", registryAt+"/lab:1.1", "--name", "lab", "--soak", "2s")
	c.noneCordoned(4)
	d.says(0, []string{"rollout lab is paused"}, "rollout", "pause")
	d.says(0, []string{"rollout lab was so already"}, "rollout", "pause", "lab")
	d.says(0, []string{"rollout lab goes on"}, "rollout", "resume", "lab")
	d.says(0, []string{"rollout lab brings " + registryAt + "/lab@" + good}, "rollout", "undo")
	d.says(0, []string{"fake-1", "nothing to do"}, "rollout", "plan", "lab")
	d.says(0, []string{"lab: Complete, 4 of 4 nodes run"}, upgrade...)
	if got := f.restarted(); len(got) != 5 {
		t.Errorf("restarts: %q, want one for each node, and one into the bad release", got)
	}
}

// interrupt interrupts a pikelet that runs in the network's namespace.
func (d desk) interrupt(cmd *exec.Cmd) {
	d.c.t.Helper()
	// ip netns exec becomes the program that it runs.
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		d.c.t.Fatal(err)
	}
}
