package prepare

import (
	"os"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

const inventoryText = "defaults:\n  k3s: {role: agent, server: 'https://192.168.1.10:6443', token: the-token-of-all}\nnodes:\n" +
	"  - hostname: cellar\n    serial: \"10000000c0ffee01\"\n    k3s: {role: server, server: \"\"}\n" +
	"  - hostname: attic\n    serial: \"10000000c0ffee02\"\n"

// TestInventoryOnTheCard: a node finds itself in an inventory on the first partition, keeps its own part alone,
// and clears the rest.
func TestInventoryOnTheCard(t *testing.T) {
	p, c := places(t)
	c.nodes, c.text = inventoryText+"\n\x00\x00", "\n\n"
	m := nodeconfig.Machine{Serial: "10000000c0ffee02"}
	cfg, st := p.take(m, node.StateStatus{})
	if cfg.Hostname != "attic" || cfg.K3s.Role != "agent" || st.Source != node.FromCard || st.Refused != "" {
		t.Fatalf("%+v, %+v", cfg, st)
	}
	kept, err := os.ReadFile(p.kept)
	if err != nil || !strings.Contains(string(kept), "the-token-of-all") || strings.Contains(string(kept), "cellar") {
		t.Errorf("kept %q, %v", kept, err)
	}
	if c.nodes != nodeconfig.Taken {
		t.Errorf("the card has %q", c.nodes)
	}
	if cfg, st := p.take(m, node.StateStatus{}); cfg.Hostname != "attic" || st.Source != node.FromState || st.Refused != "" {
		t.Errorf("the next boot: %+v, %+v", cfg, st)
	}
}

// TestInventoriesThatAreRefused: what no node should take stays where it is, with the reason.
func TestInventoriesThatAreRefused(t *testing.T) {
	for what, c := range map[string]struct{ text, want string }{
		"a stranger": {strings.Replace(inventoryText, "c0ffee02", "c0ffee03", 1), "nodes.yaml: no node of it fits serial \"10000000c0ffee02\""},
		"a cluster secret": {"cluster-secret: " + strings.Repeat("x", 40) + "\n" + inventoryText,
			"a node takes no inventory with a cluster-secret"},
		"an encrypted value": {strings.Replace(inventoryText, "the-token-of-all", "age:x", 1), "nodes.yaml: k3s.token is still encrypted"},
		"a mistake":          {strings.Replace(inventoryText, "role: server", "role: sever", 1), "nodes.yaml:"},
	} {
		p, card := places(t)
		card.nodes = c.text
		cfg, st := p.take(nodeconfig.Machine{Serial: "10000000c0ffee02"}, node.StateStatus{})
		if cfg.Hostname != "" || st.Source != node.FromNone || !strings.Contains(st.Refused, c.want) || card.nodes != c.text {
			t.Errorf("%s: %+v, %+v", what, cfg, st)
		}
		if _, err := os.Stat(p.kept); err == nil {
			t.Errorf("%s: it was kept", what)
		}
	}
}

// TestNodeFileBeforeInventory: a node's own file counts, and the inventory goes with it, so that no later
// boot takes it.
func TestNodeFileBeforeInventory(t *testing.T) {
	p, c := places(t)
	c.text, c.nodes = "hostname: loft\n", inventoryText
	m := nodeconfig.Machine{Serial: "10000000c0ffee02"}
	for range 2 {
		if cfg, st := p.take(m, node.StateStatus{}); cfg.Hostname != "loft" || st.Refused != "" {
			t.Errorf("%q, %+v", cfg.Hostname, st)
		}
	}
	if c.text != nodeconfig.Taken || c.nodes != nodeconfig.Taken {
		t.Errorf("the card has %q and %q", c.text, c.nodes)
	}
}

// TestInventoryIsScrubbedFirst: a boot that ends between the two files leaves the one
// that counts.
func TestInventoryIsScrubbedFirst(t *testing.T) {
	p, c := places(t)
	c.text, c.nodes, c.refuses = "hostname: loft\n", inventoryText, slots.NodeFile
	m := nodeconfig.Machine{Serial: "10000000c0ffee02"}
	for range 2 {
		if cfg, _ := p.take(m, node.StateStatus{}); cfg.Hostname != "loft" {
			t.Errorf("got hostname %q, want %q", cfg.Hostname, "loft")
		}
	}
	if c.nodes != nodeconfig.Taken {
		t.Errorf("the card has the inventory %q, want none", c.nodes)
	}
}
