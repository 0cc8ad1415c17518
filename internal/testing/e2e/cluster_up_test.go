//go:build cluster

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/pikelet-os/pikelet/internal/testing/rig"
)

// TestClusterUp: from two cards to a cluster and its kubeconfig, with an interruption;
// then a change of the inventory is brought to both nodes, the server first. Host keys
// come from the cluster secret: known_hosts is empty.
func TestClusterUp(t *testing.T) {
	c := &cluster{t: t, lan: newLAN(t)}
	if err := c.lan.ServeTime(); err != nil {
		t.Fatal(err)
	}
	r := clusterImage(t, "1.0", nil)
	key, public := sshKey(t)
	users := "users: [{name: anna, admin: true, keys: ['" + public + "']}]\n"
	const options = "options: {pause-image: 'registry.test/pause:1'"
	server := users + "k3s: {role: server, token: a-token, " + options +
		", flannel-backend: host-gw, disable: [coredns, local-storage, metrics-server, servicelb, traefik]}}\n"
	agent := users + "k3s: {role: agent, server: 'https://10.77.0.12:6443', token: a-token, " + options + "}}\n"
	d, dir := newUpAdmin(c, key)
	nodes := dir + "/nodes.yaml"
	_, second, _ := strings.Cut(c.inventory("attic", serial(11), 11, agent), "nodes:\n")
	inventory := c.inventory("cellar", serial(12), 12, server) + second
	writeFile(t, nodes, inventory, 0o600)

	up := []string{"up", nodes, "out", "--kubeconfig", dir + "/k3s.yaml", "--wait", "40m"}
	program, err := filepath.Abs("../../../build/pikelet")
	if err != nil {
		t.Fatal(err)
	}
	first := c.lan.Command(c.lan.Name, append([]string{program}, append(up, "--ssh-config", d.config)...)...)
	var out bytes.Buffer
	first.Stdout, first.Stderr = &out, &out
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	cellar := c.join(r, "cellar", 12, server)
	if err := first.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	first.Wait()
	if !containsAll(out.String(), "no answer over ssh yet: cellar, attic", "--inventory "+nodes+" --node attic",
		"interrupted; the nodes go on") {
		t.Errorf("interrupted:\n%s", out.String())
	}
	c.join(r, "attic", 11, agent)
	d.must(up...)

	kubectl := func(args ...string) string { return d.kubectl(dir+"/k3s.yaml", args...) }
	if got := kubectl("get", "nodes"); !containsAll(got, "attic", "cellar") || strings.Contains(got, "NotReady") {
		t.Errorf("the cluster has\n%s", got)
	}

	d.must("apply", nodes, "--check")
	writeFile(t, nodes, strings.ReplaceAll(inventory, "time: {", "sysctls: {vm.swappiness: '17'}\n  time: {"), 0o600)
	said, err := d.pikelet("apply", nodes)
	if err != nil || !containsAll(said, "cellar: applied\nattic: applied") {
		t.Errorf("applying a change: %v\n%s", err, said)
	}
	restarts := func(name string) int { return strings.Index(said, "restarting with the config node="+name) }
	if restarts("cellar") < 0 || restarts("attic") < restarts("cellar") {
		t.Errorf("the server is not first:\n%s", said)
	}
	cellar.works("pikeletd status | grep 'cellar, config from state'")
	d.must("apply", nodes, "--check")
	if got := kubectl("get", "nodes"); !containsAll(got, "attic", "cellar") || strings.Contains(got, "NotReady") {
		t.Errorf("the cluster has\n%s", got)
	}
}

// newUpAdmin returns an administrator of cellar and attic who knows no host keys, with
// their directory.
func newUpAdmin(c *cluster, key string) (d *admin, dir string) {
	c.t.Helper()
	dir = c.t.TempDir()
	d = &admin{c: c, keys: dir + "/age.key", config: dir + "/ssh_config"}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		c.t.Fatal(err)
	}
	writeFile(c.t, d.keys, identity.String()+"\n", 0o600)
	text := fmt.Sprintf("User anna\nIdentityFile %s\nIdentitiesOnly yes\nUserKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n", key)
	writeFile(c.t, d.config, "Host cellar\nHostName "+address(12)+"\nHost attic\nHostName "+address(11)+"\nHost *\n"+text, 0o600)
	return d, dir
}

// kubectl runs kubectl in the network, with a kubeconfig.
func (d *admin) kubectl(kubeconfig string, args ...string) string {
	d.c.t.Helper()
	programs, err := rig.Find("../../..")
	if err != nil {
		d.c.t.Fatal(err)
	}
	args = append([]string{filepath.Join(programs.Dir, "host/control"), "kubectl", "--kubeconfig", kubeconfig}, args...)
	out, err := d.c.lan.Command(d.c.lan.Name, args...).CombinedOutput()
	if err != nil {
		d.c.t.Errorf("kubectl %q: %v\n%s", args, err, out)
	}
	return string(out)
}
