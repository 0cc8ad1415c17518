//go:build cluster

package e2e

import (
	"fmt"
	"path/filepath"
	"testing"

	"filippo.io/age"

	"github.com/pikelet-os/pikelet/internal/host/provision"
)

// TestClusterRestore: the card of a cluster's server is gone. A backup makes another
// card that server, and the agent is Ready again without a hand.
func TestClusterRestore(t *testing.T) {
	c := &cluster{t: t, lan: newLAN(t)}
	if err := c.lan.ServeTime(); err != nil {
		t.Fatal(err)
	}
	r := clusterImage(t, "1.0", nil)
	key, public := sshKey(t)
	const options = "options: {pause-image: 'registry.test/pause:1'"
	server := "users: [{name: anna, admin: true, keys: ['" + public + "']}]\nk3s: {role: server, token: a-token, " + options +
		", flannel-backend: host-gw, disable: [coredns, local-storage, metrics-server, servicelb, traefik]}}\n"
	cellar := c.join(r, "cellar", 12, server)
	const ready = `until kubectl get node %s -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}' | grep True; do sleep 10; done`
	cellar.works(fmt.Sprintf(ready, "cellar"))
	attic := c.join(r, "attic", 11, "k3s: {role: agent, server: 'https://10.77.0.12:6443', token: a-token, "+options+"}}\n")
	cellar.works(fmt.Sprintf(ready, "attic"))
	cellar.works("kubectl create configmap kept --from-literal=where=attic")

	d := newAdmin(c, "cellar", 12, server, key)
	d.must("backup", "cellar", "-o", d.file)
	cellar.works("kubectl create configmap later --from-literal=where=nowhere")
	cellar.off()

	// The new card makes a cluster of its own first, as its config says.
	cellar = c.join(r, "cellar", 12, server)
	d.must("restore", d.file, "cellar", "--replace")
	cellar.expect("root verified")
	cellar.prompt()
	cellar.works("until kubectl get configmap kept -o jsonpath='{.data.where}' | grep attic; do sleep 10; done")
	cellar.works("! kubectl get configmap later")
	cellar.works(fmt.Sprintf(ready, "cellar"))
	cellar.works("kubectl delete lease -n kube-node-lease attic") // what was in the backup says nothing of now
	cellar.works("until kubectl get lease -n kube-node-lease attic; do sleep 10; done")
	cellar.works(fmt.Sprintf(ready, "attic"))
	attic.eventually("all checks of the agent hold", func() bool { return attic.succeeds("pikeletd check") })
	if out, err := d.pikelet("restore", d.file, "cellar"); err != nil || !containsAll(out, "this backup is restored already") {
		t.Errorf("restoring once more: %v\n%s", err, out)
	}
}

// admin is an administrator with a computer in the network of a cluster.
type admin struct {
	c                  *cluster
	file, keys, config string
}

// newAdmin returns the administrator of a member, who logs in with a key.
func newAdmin(c *cluster, name string, number int, more, key string) *admin {
	c.t.Helper()
	dir := c.t.TempDir()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		c.t.Fatal(err)
	}
	d := &admin{c: c, file: dir + "/cellar.backup", keys: dir + "/age.key", config: dir + "/ssh_config"}
	writeFile(c.t, d.keys, identity.String()+"\n", 0o600)
	id, _, err := provision.Identity(configOf(c.t, c.inventory(name, serial(number), number, more), name), "")
	if err != nil {
		c.t.Fatal(err)
	}
	writeFile(c.t, dir+"/known_hosts", address(number)+" "+id.PublicKey()+"\n", 0o600)
	writeFile(c.t, d.config, fmt.Sprintf("Host %s\nHostName %s\nUser anna\nIdentityFile %s\nIdentitiesOnly yes\nUserKnownHostsFile %s\n"+
		"GlobalKnownHostsFile /dev/null\nBatchMode yes\nStrictHostKeyChecking yes\nConnectionAttempts 60\n",
		name, address(number), key, dir+"/known_hosts"), 0o600)
	return d
}

// pikelet runs the command under test in the network, and returns what it printed.
func (d *admin) pikelet(args ...string) (string, error) {
	program, err := filepath.Abs("../../../build/pikelet")
	if err != nil {
		return "", err
	}
	args = append([]string{program}, append(args, "--identity", d.keys, "--ssh-config", d.config)...)
	out, err := d.c.lan.Command(d.c.lan.Name, args...).CombinedOutput()
	return string(out), err
}

func (d *admin) must(args ...string) {
	d.c.t.Helper()
	out, err := d.pikelet(args...)
	if err != nil {
		d.c.t.Fatalf("pikelet %q: %v\n%s", args, err, out)
	}
	d.c.t.Logf("pikelet %q: %s", args, out)
}
