//go:build cluster

package e2e

import (
	"crypto/tls"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// TestClusterReplace has another board take an agent over: with its name, its volume
// on a NAS, and its pods. The power of the desk and that of the new board is cut in the
// middle. The old board, when it comes back, is refused by the API server and by the
// volume.
func TestClusterReplace(t *testing.T) {
	c := newCluster(t)
	n := newNASIn(t, 3000, c.lan)
	key, public := sshKey(t)
	const old, new = 11, 0x2b // numbers of the boards' serials
	config := "users: [{name: anna, admin: true, keys: ['" + public + "']}]\n" + c.agent() + n.volume()
	nodes := filepath.Join(t.TempDir(), "nodes.yaml")
	writeFile(t, nodes, "# the cluster of this test\n"+c.inventory("attic", serial(old), old, config), 0o600)
	r := clusterImage(t, "1.0", nil)
	attic := c.join(r, "attic", old, config)
	first := attic.ready()
	c.apply(web(1, 0))
	attic.running("app=web", 1)
	attic.works("echo of the first board > /var/lib/rancher/kept; sync")

	d := newAdmin(c, "attic", old, config, key)
	command := []string{"node", "replace", "attic", "--serial", serial(new), "--inventory", nodes, "--kubeconfig", c.Kubeconfig()}
	desk := d.start(command...)
	attic.eventually("the old board is drained and turned off", func() bool { return !c.node("attic").ready() })
	c.until("the inventory has the new board", func() bool {
		b, err := os.ReadFile(nodes)
		return err == nil && strings.Contains(string(b), serial(new))
	})
	desk.kill() // the desk's power
	attic.Close()

	desk = d.start(command...)
	cfg := newBoard(t, nodes, serial(new))
	card := cardOf(t, r)
	enlarge(t, card, 4000)
	if err := provision.Write(card, cfg); err != nil {
		t.Fatal(err)
	}
	next := c.boot(card, "attic", new)
	next.Close() // the new board's power, on its first boot
	next = c.boot(card, "attic", new)
	next.eventually("the command ends", desk.ended)
	if out := desk.output(); !containsAll(out, "attic is the board "+serial(new)) {
		t.Fatalf("the command says\n%s", out)
	}
	now := c.node("attic")
	if now.Metadata.UID != first.Metadata.UID || now.Spec.Unschedulable || now.Status.NodeInfo.BootID == first.Status.NodeInfo.BootID {
		t.Errorf("the node is %+v, and was %+v", now, first)
	}
	next.running("app=web", 1)
	next.works("grep 'of the first board' /var/lib/rancher/kept && grep 1 /var/lib/pikelet/volume/pikelet/generation")

	c.tellsApart(configOf(t, c.inventory("attic", serial(old), old, config), "attic"), cfg)
	// The volume does, also while no other machine has it.
	next.off()
	attic = c.boot(attic.card, "attic", old)
	attic.works("until pikeletd status | grep 'another board took this node over'; do sleep 2; done")
	attic.works("! grep -q /var/lib/pikelet/volume /proc/mounts")
}

// tellsApart: the cluster knows an old board and a new one apart by their passwords.
func (c *cluster) tellsApart(old, new *nodeconfig.Config) {
	c.t.Helper()
	before, _, err := provision.Identity(old, "")
	if err != nil {
		c.t.Fatal(err)
	}
	after, err := before.WithBoard(new.BoardSeed)
	if err != nil {
		c.t.Fatal(err)
	}
	for password, want := range map[string]int{before.NodePassword: http.StatusForbidden, after.NodePassword: http.StatusOK} {
		if got := c.joins(before.Hostname, password); got != want {
			c.t.Errorf("a board of %s is answered %d, want %d", before.Hostname, got, want)
		}
	}
}

// newBoard returns the config of a board that was replaced into an inventory.
func newBoard(t *testing.T, nodes, serial string) *nodeconfig.Config {
	t.Helper()
	text, err := os.ReadFile(nodes)
	if err != nil {
		t.Fatal(err)
	}
	if !containsAll(string(text), "# the cluster of this test", "generation: 1") {
		t.Fatalf("the inventory is\n%s", text)
	}
	doc, err := nodeconfig.Load(nodes, text, boards.Names(), false)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := provision.Config(doc, nodeconfig.Machine{Serial: serial}, "", &provision.Keys{})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// joins returns how the server answers a board that says a node's password.
func (c *cluster) joins(node, password string) int {
	c.t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DialContext: c.lan.DialContext, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, "https://10.77.0.1:6443/v1-k3s/client-kubelet.crt", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	_, secret, _ := strings.Cut(c.Token, "::")
	if _, after, found := strings.Cut(secret, ":"); found {
		secret = after
	}
	req.SetBasicAuth("node", secret)
	req.Header.Set("k3s-Node-Name", node)
	req.Header.Set("k3s-Node-Password", password)
	resp, err := client.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}
