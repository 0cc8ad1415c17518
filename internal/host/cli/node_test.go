package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// encrypt runs pikelet node encrypt.
func encrypt(t *testing.T, dir, secret, recipient string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "node", "encrypt", "--recipient", recipient)
	cmd.Env, cmd.Stdin = []string{"BE_PIKELET=1", "HOME=" + dir}, strings.NewReader(secret+"\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// exits runs pikelet, which must have an exit status, and returns its output.
func exits(t *testing.T, dir string, want int, args ...string) string {
	t.Helper()
	out, code := pikelet(t, dir, nil, args...)
	if code != want {
		t.Errorf("pikelet %s: exit status %d, want %d:\n%s", strings.Join(args, " "), code, want, out)
	}
	return out
}

// contains looks for texts in an output.
func contains(t *testing.T, out string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("no %q in\n%s", text, out)
		}
	}
}

// writeLab writes an inventory with encrypted secrets, lab.yaml, and the key that
// decrypts them.
func writeLab(t *testing.T, dir string) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/.config/pikelet/age.key", id.String()+"\n", 0o600)
	secret := encrypt(t, dir, "a cluster secret of more than 32 letters", id.Recipient().String())
	token := encrypt(t, dir, "the-token", id.Recipient().String())
	write(t, dir+"/lab.yaml", fmt.Sprintf("cluster-secret: %q\ndefaults:\n  k3s: {role: agent, server: 'https://10.0.0.1:6443', token: %q}\n"+
		"nodes:\n- {hostname: attic, serial: '0badcafe'}\n- {hostname: cellar}\n", secret, token), 0o644)
}

// TestNodeInit: the inventory that node init writes passes the check once its
// placeholder is replaced.
func TestNodeInit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	exits(t, dir, 0, "node", "init")
	contains(t, exits(t, dir, 2, "node", "check", "nodes.yaml"),
		"nodes.yaml:19: users[0].keys[0]: the placeholder of a new inventory")
	starting, err := os.ReadFile(dir + "/nodes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/nodes.yaml", strings.Replace(string(starting), "AAAAIAAAAAAAAA", "AAAAIAAAABAAAA", 1), 0o644)
	contains(t, exits(t, dir, 0, "node", "check", "nodes.yaml"), "1 nodes checked")
	if _, err := os.Stat(dir + "/nodes.schema.json"); err != nil {
		t.Error(err)
	}
}

// TestNodeShow checks and shows configs of an inventory with encrypted secrets.
func TestNodeShow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeLab(t, dir)
	contains(t, exits(t, dir, 0, "node", "check", "lab.yaml"), "2 nodes checked")
	write(t, dir+"/agent.yaml", "k3s: {role: agent, server: 'https://10.0.0.1:6443', token: t, options: {cluster-init: true}}\n", 0o644)
	for _, verb := range []string{"check", "show"} {
		contains(t, exits(t, dir, 2, "node", verb, "agent.yaml"),
			"agent.yaml:1: k3s.options.cluster-init: only servers take it, and k3s would not start as an agent")
	}
	write(t, dir+"/server.yaml", "k3s: {role: server, options: {flanel-backend: host-gw}}\n", 0o644)
	contains(t, exits(t, dir, 0, "node", "check", "server.yaml"),
		"warning: k3s option is ignored problem=\"server.yaml:1: k3s.options.flanel-backend: k3s has no such option",
		"1 nodes checked")
	shown := exits(t, dir, 0, "node", "show", "lab.yaml", "--serial", "100000000BADCAFE")
	contains(t, shown, "hostname: attic", "token: (secret, 9 characters)", "# known_hosts: attic ssh-ed25519 ",
		"# IQN: iqn.2026-11.io.github.pikelet-os:attic-")
	if strings.Contains(shown, "the-token") {
		t.Errorf("a secret is shown:\n%s", shown)
	}
	open := exits(t, dir, 0, "node", "show", "lab.yaml", "--node", "attic", "--secrets")
	contains(t, open, "token: the-token", "seed: ")
	contains(t, exits(t, dir, 2, "node", "show", "lab.yaml"), "lab.yaml is an inventory; want one of its nodes")
	contains(t, exits(t, dir, 1, "node", "show", "lab.yaml", "--node", "roof"), `it has no node "roof"; it has attic, cellar`)
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/other.key", other.String()+"\n", 0o600)
	contains(t, exits(t, dir, 1, "node", "show", "lab.yaml", "--node", "attic", "--identity", "other.key"),
		"lab.yaml: line 3: decrypting the secret with the keys in other.key: ")
	contains(t, exits(t, dir, 1, "node", "show", "lab.yaml", "--node", "attic", "--identity", "none.key"), "none.key")
	contains(t, exits(t, dir, 1, "node", "check", "lab.yaml", "gone.yaml"), "gone.yaml")
	write(t, dir+"/bad.yaml", "hostname: A\nusers: 7\n", 0o644)
	contains(t, exits(t, dir, 2, "node", "check", "bad.yaml"), "bad.yaml:1: hostname: ", "bad.yaml:2: this is a number; want a list")
}

// TestNodeWrite writes the config of a node, with decrypted secrets, to a disk
// image.
func TestNodeWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeLab(t, dir)
	newSpec(t, dir)
	warmCache(t, dir)
	exits(t, dir, 0, "build", "--output", "out", "image.yaml")
	exits(t, dir, 0, "node", "write", "lab.yaml", "out/disk.img", "--node", "attic")
	f, err := os.Open(dir + "/out/disk.img")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	name := partition(t, dir+"/out/disk.img", 1)
	b, err := exec.Command("mtype", "-i", name, "::/"+slots.NodeFile).Output()
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != slots.NodeSize || !strings.Contains(string(b), "token: the-token") || strings.Contains(string(b), "more than 32 letters") ||
		strings.Contains(string(b), "age:") {
		t.Errorf("on the card, %d bytes: %.400s", len(b), b)
	}
	if !regexp.MustCompile(`(?m)^seed: [0-9a-f]{64}$`).Match(b) {
		t.Errorf("no seed on the card: %.400s", b)
	}
	write(t, dir+"/nocard", strings.Repeat("x", 4096), 0o644)
	contains(t, exits(t, dir, 1, "node", "write", "lab.yaml", "nocard", "--node", "attic"), "nocard is not a Pikelet card")
	big := "hostname: attic\nfiles: [{path: /etc/big, content: " + strings.Repeat("x", 70000) + "}]\n"
	write(t, dir+"/big.yaml", big, 0o644)
	contains(t, exits(t, dir, 1, "node", "write", "big.yaml", "out/disk.img"), "the card has room for 65536")
}

// buildsWith returns a function that builds the spec of dir with more text behind
// it, and wants an exit status and texts in the output.
func buildsWith(t *testing.T, dir string) func(more string, want int, texts ...string) {
	t.Helper()
	spec := mustRead(t, dir+"/image.yaml")
	return func(more string, want int, texts ...string) {
		t.Helper()
		write(t, dir+"/image.yaml", spec+more, 0o644)
		out, code := pikelet(t, dir, nil, "build", "--output", "out", "image.yaml")
		if code != want {
			t.Errorf("exit status %d, want %d:\n%s", code, want, out)
		}
		for _, text := range texts {
			if !strings.Contains(out, text) {
				t.Errorf("no %q in\n%s", text, out)
			}
		}
	}
}

// TestIdentityFilesAreRefused: what makes one node itself is refused in an image that
// all nodes have, and so are secrets.
func TestIdentityFilesAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	newSpec(t, dir)
	warmCache(t, dir)
	build := buildsWith(t, dir)
	write(t, dir+"/nodes.yaml", "cluster-secret: a cluster secret of more than 32 letters\nnodes: [{hostname: attic, k3s: {role: server, "+
		"token: t}}]\n", 0o644)
	build("inventory: nodes.yaml\n", 1, "nodes.yaml holds secrets (cluster-secret, nodes[0].k3s.token), and whoever has the image would "+
		"have them")
	write(t, dir+"/nodes.yaml", "nodes: [{hostname: Attic}]\n", 0o644)
	build("inventory: nodes.yaml\n", 2, "nodes.yaml:1: hostname: ")
	write(t, dir+"/nodes.yaml", "nodes: [{hostname: attic, k3s: {role: agent, server: 'https://10.0.0.1:6443', options: {tls-san: a}}}]\n",
		0o644)
	build("inventory: nodes.yaml\n", 2, "nodes.yaml:1: k3s.options.tls-san: only servers take it")
	build("inventory: missing.yaml\n", 2, "inventory: no file missing.yaml")
	write(t, dir+"/nodes.yaml", "nodes: [{hostname: attic, serial: '0badcafe', k3s: {role: agent, server: 'https://10.0.0.1:6443'}}]\n", 0o644)
	build("inventory: nodes.yaml\n", 0)
	write(t, dir+"/files/etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.2026-01.lan:all\n", 0o644)
	write(t, dir+"/files/etc/dropbear/dropbear_ed25519_host_key", "k", 0o600)
	build("", 1, "/etc/iscsi/initiatorname.iscsi would be in the image", "files), and every node would have the same: an IQN",
		"/etc/dropbear/dropbear_ed25519_host_key would be in the image")
}

// TestOverlayK3s: without k3s in the repositories the overlay says what to do;
// what it fetches is what its digest says, or nothing.
func TestOverlayK3s(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	newSpec(t, dir)
	warmCache(t, dir)
	spec := mustRead(t, dir+"/image.yaml")
	build := buildsWith(t, dir)
	build("overlays: [k3s]\n", 1, "overlay k3s: no repository of the spec has k3s. Alpine has k3s in its community repository")
	write(t, dir+"/k3s-arm64", "no release at all", 0o644)
	wrong := strings.Repeat("0", 64)
	build("overlays: [{name: k3s, with: {release: k3s-arm64, sha256: '"+wrong+"'}}]\n", 1, "sha256 mismatch: got ")
	const right = "ee7c57888717376fbea01debc7344c633ce68bb294e168a61b021689913fad8b"
	build("overlays: [{name: k3s, with: {release: k3s-arm64, sha256: '"+right+"'}}]\n", 1,
		"no archive found; want a release of k3s")
	build("overlays: [{name: k3s, with: {release: k3s-arm64}}]\n", 1, "has no sha256 of 64 hexadecimal digits, which pins what is fetched")
	build("overlays: [wifi]\n", 0, "out/disk.img")
	// Alpine's package, here from a repository made for it.
	shelf := newShelf(t)
	shelf.add(apk.Package{Name: "k3s"}, plain("usr/bin/k3s", "#!/bin/sh\n"))
	two := strings.Replace(spec, "packages:", "  - {url: "+shelf.dir+"/repo, keys: ["+shelf.dir+"/shelf.rsa.pub]}\npackages:", 1)
	write(t, dir+"/image.yaml", two+"overlays: [k3s]\n", 0o644)
	if out, code := pikelet(t, dir, nil, "build", "--output", "out", "image.yaml"); code != 0 {
		t.Errorf("with a package k3s: %s", out)
	}
	tree := mustRead(t, dir+"/out/tree.txt")
	for _, want := range []string{"/usr/bin/k3s", "/etc/init.d/pikelet-k3s", "/opt/cni", "/usr/libexec/kubernetes", "/etc/sysctl.d/k3s.conf"} {
		if !strings.Contains(tree, want+" ") && !strings.Contains(tree, want+"\n") {
			t.Errorf("the image has no %s", want)
		}
	}
	build("overlays: [{name: k3s, with: {release: gone, sha256: '"+wrong+"'}}]\n", 1, "gone is not there any more")
}

// TestOverlayFilesAreVendored: what an overlay fetches is in the lock by its
// digest, and in a vendor folder: the build needs its address no more.
func TestOverlayFilesAreVendored(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	newSpec(t, dir)
	warmCache(t, dir)
	spec, err := os.ReadFile(dir + "/image.yaml")
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/chart.tgz", "a chart", 0o644)
	sum := sha256.Sum256([]byte("a chart"))
	overlay := "overlays: [{name: metallb, with: {chart: chart.tgz, version: 0.1.2, sha256: '" + hex.EncodeToString(sum[:]) +
		"', pools: 10.0.0.0/28}}]\n"
	write(t, dir+"/image.yaml", string(spec)+overlay, 0o644)
	run := func(args ...string) string {
		t.Helper()
		out, code := pikelet(t, dir, nil, args...)
		if code != 0 {
			t.Fatalf("pikelet %s: %s", strings.Join(args, " "), out)
		}
		return out
	}
	run("lock", "image.yaml")
	run("build", "--output", "one", "image.yaml")
	run("vendor", "image.yaml", "copies")
	for _, gone := range []string{"chart.tgz", "cache"} {
		if err := os.RemoveAll(dir + "/" + gone); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/image.yaml", string(spec)+overlay+"vendor: copies\n", 0o644)
	run("build", "--offline", "--output", "two", "image.yaml")
	if one, two := mustRead(t, dir+"/one/tree.txt"), mustRead(t, dir+"/two/tree.txt"); one != two ||
		!strings.Contains(one, "/usr/share/k3s/charts/metallb-0.1.2.tgz") {
		t.Error("the vendor's chart makes another image, or none is in it")
	}
}
