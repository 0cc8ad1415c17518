package prepare

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// fakeCard is a control partition with a config.
type fakeCard struct {
	text    string
	nodes   string // nodes.yaml; "" where there is none
	scrubs  int
	keptWas string // of the file keeps, when the card was scrubbed
	keeps   string
	refuses string // the file that cannot be scrubbed
}

func (c *fakeCard) ReadControl(name string) ([]byte, error) {
	switch {
	case name == slots.NodesFile && c.nodes != "":
		return []byte(c.nodes), nil
	case name == slots.NodesFile:
		return nil, &fat.NotFoundError{Name: name}
	case name != slots.NodeFile:
		return nil, fs.ErrNotExist
	}
	return []byte(c.text), nil
}

func (c *fakeCard) Scrub(name, text string) error {
	b, _ := os.ReadFile(c.keeps)
	if c.refuses == name {
		return syscall.EIO
	}
	if name == slots.NodesFile {
		c.nodes = text
		return nil
	}
	c.scrubs, c.keptWas, c.text = c.scrubs+1, string(b), text
	return nil
}

// places returns where a node's configs are, below a directory of the test's.
func places(t *testing.T) (configs, *fakeCard) {
	dir := t.TempDir()
	p := configs{
		served: filepath.Join(dir, "served"), kept: filepath.Join(dir, "state/node/node.yaml"), inventory: filepath.Join(dir, "inventory"),
		trial: filepath.Join(dir, "state/node/trial.json"), lock: filepath.Join(dir, "lock"),
	}
	c := &fakeCard{keeps: p.kept}
	p.card = c
	return p, c
}

func fill(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestConfigMovesToState: a config on the card is kept for root only, and
// leaves the card when it is safe.
func TestConfigMovesToState(t *testing.T) {
	p, c := places(t)
	c.text = "hostname: attic\n\n\x00\x00"
	cfg, st := p.take(nodeconfig.Machine{}, node.StateStatus{})
	if cfg.Hostname != "attic" || st.Source != node.FromCard || st.Refused != "" {
		t.Errorf("%+v", st)
	}
	if c.scrubs != 1 || c.keptWas != "hostname: attic\n" || c.text != nodeconfig.Taken {
		t.Errorf("the card was scrubbed %d times, with %q on state; it has %q", c.scrubs, c.keptWas, c.text)
	}
	if info, err := os.Stat(p.kept); err != nil || info.Mode() != 0o600 {
		t.Errorf("kept as %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Dir(p.kept)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("kept in a directory of mode %v, %v", info.Mode(), err)
	}
	if cfg, st = p.take(nodeconfig.Machine{}, node.StateStatus{}); cfg.Hostname != "attic" || st.Source != node.FromState || c.scrubs != 1 {
		t.Errorf("the next boot: %q, %+v", cfg.Hostname, st)
	}
}

// TestConfigStaysOnTheCard: where state would forget it, or when it can't be
// kept, a config counts and stays where it is.
func TestConfigStaysOnTheCard(t *testing.T) {
	for what, prepare := range map[string]func(p configs) node.StateStatus{
		"memory": func(configs) node.StateStatus { return node.StateStatus{Memory: "why"} },
		"a full card": func(p configs) node.StateStatus {
			fill(t, filepath.Dir(filepath.Dir(p.kept)), "a file where a directory would be")
			return node.StateStatus{}
		},
	} {
		p, c := places(t)
		c.text = "hostname: attic\n"
		state := prepare(p)
		cfg, st := p.take(nodeconfig.Machine{}, state)
		if cfg.Hostname != "attic" || st.Source != node.FromCard || c.scrubs != 0 ||
			!strings.Contains(st.Refused, "counts for this boot, and stays there") {
			t.Errorf("%s: %q, %+v, scrubbed %d times", what, cfg.Hostname, st, c.scrubs)
		}
	}
}

// TestInvalidConfigsAreNotApplied: the last valid config stays in force, and the
// invalid one is left in place.
func TestInvalidConfigsAreNotApplied(t *testing.T) {
	for text, want := range map[string]string{
		"hostname: ATTIC\n":                     "want lower-case letters",
		"hostnme: attic\n":                      "there is no such field",
		"k3s: {role: server, token: 'age:x'}\n": "k3s.token is still encrypted",
	} {
		p, c := places(t)
		fill(t, p.kept, "hostname: cellar\n")
		c.text = text
		cfg, st := p.take(nodeconfig.Machine{}, node.StateStatus{})
		if cfg.Hostname != "cellar" || st.Source != node.FromState || !strings.Contains(st.Refused, want) || c.scrubs != 0 || c.text != text {
			t.Errorf("%s: %q, %+v", text, cfg.Hostname, st)
		}
		// The same from a boot server, and by SSH.
		fill(t, p.served, text)
		c.text = ""
		if cfg, st := p.take(nodeconfig.Machine{}, node.StateStatus{}); cfg.Hostname != "cellar" || !strings.Contains(st.Refused, want) {
			t.Errorf("served, %s: %q, %+v", text, cfg.Hostname, st)
		}
		err := p.takeSent(strings.NewReader(text), &bytes.Buffer{}, nodeconfig.Machine{}, node.StateStatus{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("sent, %s: %v", text, err)
		}
		if b, err := os.ReadFile(p.kept); err != nil || string(b) != "hostname: cellar\n" {
			t.Errorf("kept after %s: %q, %v", text, b, err)
		}
	}
}

// TestConfigOrder: a boot server's config counts over all, then the card's,
// then what was kept, then the image's inventory.
func TestConfigOrder(t *testing.T) {
	p, c := places(t)
	m := nodeconfig.Machine{Serial: "10000000abcdef01"}
	fill(t, p.inventory, "nodes: [{serial: abcdef01, hostname: inventory, logs: state}]\n")
	check := func(name, source string) {
		t.Helper()
		cfg, st := p.take(m, node.StateStatus{})
		if cfg.Hostname != name || st.Source != source || st.Refused != "" || cfg.Logs != nodeconfig.OnState {
			t.Errorf("%q, logs %q, %+v; want %s from %s", cfg.Hostname, cfg.Logs, st, name, source)
		}
	}
	check("inventory", node.FromImage)
	fill(t, p.kept, "hostname: kept\n")
	check("kept", node.FromState)
	c.text = "hostname: card\n"
	check("card", node.FromCard)
	fill(t, p.served, "hostname: served\n")
	check("served", node.FromServer)
	empty, _ := places(t)
	if cfg, st := empty.take(m, node.StateStatus{}); st.Source != node.FromNone || cfg.Hostname != "" {
		t.Errorf("without any: %q, %+v", cfg.Hostname, st)
	}
}

func TestTakeSent(t *testing.T) {
	p, _ := places(t)
	send := func(text string, state node.StateStatus) error {
		return p.takeSent(strings.NewReader(text), &bytes.Buffer{}, nodeconfig.Machine{}, state)
	}
	for text, want := range map[string]string{
		strings.Repeat("#", nodeconfig.MaxSize+1): "more than 65536 bytes",
		"# nothing\n\n":                          "the config that was sent is empty",
		"hostname: attic\nvolume: {on: nowhere}": "want state, memory, disk or iscsi",
	} {
		if err := send(text, node.StateStatus{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
	if err := send("hostname: attic\n", node.StateStatus{Memory: "no card"}); !errors.Is(err, errForgets) {
		t.Errorf("state in memory: %v", err)
	}
	if _, err := os.Stat(p.kept); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was kept: %v", err)
	}
	if err := send("hostname: attic\n", node.StateStatus{}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(p.kept); err != nil || info.Mode() != 0o600 {
		t.Errorf("kept as %v, %v", info.Mode(), err)
	}
}

// TestAdminsAreRoot holds docs/security.md to what it says: who may send a
// config is root from the next boot on, so that `admin` is not taken for less.
func TestAdminsAreRoot(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAybm0CJp03lfWCx6KDH+bSOjkyF0vEOKCcIp0ekn+0K a@b"
	p, _ := places(t)
	text := "users: [{name: root, keys: ['" + key + "']}, {name: anna, keys: ['" + key + "'], admin: true}]\nfiles: " +
		"[{path: /etc/doas.conf, content: permit nopass anna}]\n"
	if err := p.takeSent(strings.NewReader(text), &bytes.Buffer{}, nodeconfig.Machine{}, node.StateStatus{}); err != nil {
		t.Fatal(err)
	}
	all := bootFilesOf(t, text)
	if !strings.Contains(all["/root/.ssh/authorized_keys"].Content, key) || all["/etc/doas.conf"].Content != "permit nopass anna" {
		t.Error("a config that makes an admin root is not taken; docs/security.md and docs/nodes.md say that it is")
	}
	for _, page := range []string{"security.md", "nodes.md"} {
		b, err := os.ReadFile("../../../../docs/" + page)
		if err != nil || !strings.Contains(string(b), "as good as root") {
			t.Errorf("docs/%s does not say that admins are as good as root (%v)", page, err)
		}
	}
}

// TestKeptConfigKeepsUsers: a config that an earlier image took lets its users
// in under stricter rules, and says that it is not taken whole; fields of a newer
// image are passed over.
func TestKeptConfigKeepsUsers(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAybm0CJp03lfWCx6KDH+bSOjkyF0vEOKCcIp0ekn+0K"
	for _, c := range []struct {
		text    string
		partial bool
	}{
		{"users: [{name: anna, keys: ['" + key + "', 'from=\"10.0.0.1\" " + key + "']}]\n", true},
		{"users: [{name: anna, keys: ['" + key + "']}]\nfuture: {x: y}\n", false},
	} {
		p, _ := places(t)
		fill(t, p.kept, c.text)
		cfg, st := p.take(nodeconfig.Machine{}, node.StateStatus{})
		if len(cfg.Users) != 1 || len(cfg.Users[0].Keys) != 1 || st.Source != node.FromState || st.Partial != c.partial || st.Refused == "" {
			t.Errorf("%s: users %+v, %+v", c.text, cfg.Users, st)
		}
	}
}
