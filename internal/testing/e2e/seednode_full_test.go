//go:build full

package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// TestSeedNode: one Pi with a card, with the overlay seed-node, starts another
// that has none; who is adopted there is known after the next boot.
func TestSeedNode(t *testing.T) {
	t.Parallel()
	releases, err := filepath.Glob("../../../build/seed/pikelet-*-linux-arm64.tar.gz")
	if err != nil || len(releases) != 1 {
		t.Fatalf("%d releases in build/seed, want one: make dist DIST=build/seed PLATFORMS=linux/arm64 makes it", len(releases))
	}
	release, err := filepath.Abs(releases[0])
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(release)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(b)
	served := variant(t, servedBoards[0], servedBoards[1])
	spec := fmt.Sprintf(`slot-size: 160MiB
layers: [{folder: %s, to: srv/image}]
overlays:
- name: seed-node
  with: {release: %s, sha256: %x, image: /srv/image, options: --pool 10.77.0.50-10.77.0.99}`, served.Artifact.Dir, release, digest)
	r, err := buildFilled(t, "small.yaml", t.TempDir(), []string{"slot-size: 40MiB", spec})
	if err != nil {
		t.Fatal(err)
	}
	const config = `hostname: seed
network: {interfaces: [{name: eth0, addresses: [10.77.0.2/24]}]}
files:
- path: /etc/pikelet/nodes.yaml
  secret: true
  content: |
    nodes: [{serial: '00000005', hostname: attic}, {hostname: cellar}]
`
	l := newLAN(t)
	_, tap := l.pi("4", 0x52617370)
	card := grown(t, r.Disk, config, 512)
	p := boot(t, card, func(o *vm.Options) { o.Tap, o.Namespace = tap, l.Name })
	p.expect("this is seed")
	p.prompt()
	p.works("until grep 'serving stream=small release=1.2 nodes=2' /var/log/pikelet-serve.log; do sleep 1; done")
	if t.Failed() {
		return
	}
	rom, _ := l.pi("5", 5)
	got, err := rom.Boot(context.Background())
	if err != nil || len(got.Kernel) == 0 || len(got.Initramfs) == 0 {
		t.Errorf("what the seed starts: %v", err)
	}
	p.works("/usr/lib/pikelet-serve/*/pikelet nodes adopt 000000ff --mac d8:3a:dd:00:00:ff --node cellar")
	// The model asks for the manifest last, which no firmware does and which is
	// not there; what came before may be told of after that.
	p.works("/usr/lib/pikelet-serve/*/pikelet nodes | grep -E '^00000005.*(has|asks for manifest)'")
	p.run("reboot", "this is seed")
	p.prompt()
	p.works("grep cellar /var/lib/pikelet-serve/state/adopted/000000ff.yaml")
}

// grown is a copy of a card, with the node's config on it, and so many MiB more.
func grown(t *testing.T, disk, config string, more int64) string {
	t.Helper()
	card := filepath.Join(t.TempDir(), "card.img")
	in, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(card, in, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(card, int64(len(in))+more<<20); err != nil {
		t.Fatal(err)
	}
	configure(t, card, config)
	return card
}
