package e2e

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
	"github.com/pikelet-os/pikelet/internal/tools/full"
)

// flashCard writes an image onto a card with pikelet flash.
func flashCard(t *testing.T, r *builder.Result, card string, more ...string) {
	t.Helper()
	if out, err := pikelet(append([]string{"flash", r.Artifact.Dir, card, "--yes"}, more...)...); err != nil {
		t.Fatalf("flashing %v: %v\n%s", more, err, out)
	}
}

// firstBoot is the story of a card: flashed for the node attic, and flashed again.
type firstBoot struct {
	t           *testing.T
	image       *builder.Result
	nodes, card string // files
	cfg         *nodeconfig.Config
	id          node.Identity
	anna        login
	with        func(*vm.Options)
}

// TestFirstBootSetsUpNode: a fresh card becomes named, keyed and grown, lets its
// admin in by key only, is the same after a reflash that keeps state, but for the
// name that a config sent before gave it, and after one that wipes state.
func TestFirstBootSetsUpNode(t *testing.T) {
	t.Parallel()
	b := newFirstBoot(t)
	p := b.start("this is a first boot", "this is attic, config from the control partition", b.id.Fingerprint())
	b.checkIdentity(p)
	b.checkStatus()
	b.checkAccess()
	b.sendConfig("roof")
	p.works("hostname | grep attic")
	p.off()
	b.checkScrubbed()

	flashCard(t, b.image, b.card, "--keep-state")
	p = b.start("this is roof, config from state, SSH host key " + b.id.Fingerprint())
	if strings.Contains(p.Output(), "first boot") {
		t.Error("the second boot took itself for a first one")
	}
	b.wipe(p)
	if !full.Tests {
		return
	}
	p.prompt()
	p.works("grep kept /var/lib/rancher/kept") // wiping did not include the volume
	p.Close()

	flashCard(t, b.image, b.card, "--inventory", b.nodes, "--node", "attic")
	p = boot(t, b.card, b.with)
	p.expect("this is a first boot", "this is attic, config from the control partition, SSH host key "+b.id.Fingerprint())
}

// newFirstBoot flashes a card of 600 MiB for attic, whose admin is anna.
func newFirstBoot(t *testing.T) *firstBoot {
	t.Helper()
	b := &firstBoot{t: t, image: sharedBuild(t, "node.yaml")}
	key, public := sshKey(t)
	inventory := fmt.Sprintf(`cluster-secret: %s
defaults:
  users: [{name: anna, admin: true, keys: ['%s']}]
  time: {zone: Asia/Tokyo}
  files: [{path: /etc/secret, content: hush-hush, secret: true}]
nodes:
- {hostname: attic, serial: '52617370'}
- {hostname: cellar, serial: '00000001'}
`, clusterSecret, public)
	b.cfg = configOf(t, inventory, "attic")
	b.nodes, b.card = filepath.Join(t.TempDir(), "nodes.yaml"), filepath.Join(t.TempDir(), "card")
	writeFile(t, b.nodes, inventory, 0o600)
	writeFile(t, b.card, "", 0o600)
	enlarge(t, b.card, 600)
	flashCard(t, b.image, b.card, "--inventory", b.nodes, "--node", "attic")
	id, _, err := provision.Identity(b.cfg, "")
	if err != nil {
		t.Fatal(err)
	}
	b.id = id
	b.anna, b.with = sshTo(t, "anna", key, id.PublicKey())
	return b
}

// start boots the card to its prompt, past texts on the console.
func (b *firstBoot) start(texts ...string) *pi {
	b.t.Helper()
	p := boot(b.t, b.card, b.with)
	p.expect(texts...)
	p.prompt()
	return p
}

// checkIdentity checks that the node is what its config makes it.
func (b *firstBoot) checkIdentity(p *pi) {
	b.t.Helper()
	p.works("[ $(hostname) = attic ] && [ $(cat /etc/machine-id) = " + b.id.MachineID + " ]")
	p.works("grep -q Tokyo /etc/timezone && date | grep JST")
	p.works("[ $(stat -c %a /etc/secret) = 600 ] && [ $(stat -c %a /var/lib/pikelet/state/node/node.yaml) = 600 ]")
	p.works("[ $(df -m /var/lib/rancher | tail -1 | awk '{print $2}') -gt 300 ]") // the card has 600 MiB
	if got := b.anna.must("hostname; id -un; cat /etc/machine-id"); got != "attic\nanna\n"+b.id.MachineID+"\n" {
		b.t.Errorf("over SSH: %q", got)
	}
}

// checkStatus checks what the node reports of itself, as text and as JSON.
func (b *firstBoot) checkStatus() {
	b.t.Helper()
	got := b.anna.must("doas pikeletd status && doas /usr/sbin/pikeletd check")
	if !containsAll(got, "node    attic, config from the control partition", "state   on /dev/vda4") {
		b.t.Errorf("pikeletd status prints\n%s", got)
	}
	s, err := node.DecodeStatus([]byte(b.anna.must("doas pikeletd status --json")))
	if err != nil {
		b.t.Fatal(err)
	}
	if n := s.Node; n.Hostname != "attic" || n.HostKey != b.id.PublicKey() || n.IQN != b.id.IQN || n.Config.Source != node.FromCard ||
		!n.State.Made || !n.State.Grown {
		b.t.Errorf("pikeletd status --json: node %+v", n)
	}
	if !s.Volume.Mounted || s.Boot.Slot != slots.A || s.CardWritten == 0 || s.Space.Size < 300e6 {
		b.t.Errorf("pikeletd status --json: %+v", s)
	}
}

// checkAccess checks that an admin may not do more than allowed, nor anyone log
// in by password.
func (b *firstBoot) checkAccess() {
	b.t.Helper()
	for _, command := range []string{
		"doas id", "doas /bin/sh -c id", "cat /var/lib/pikelet/state/node/node.yaml", "cat /etc/secret",
		"/usr/sbin/pikeletd reset --yes",
	} {
		if out, err := b.anna.run(command); err == nil {
			b.t.Errorf("anna may run %s: %s", command, out)
		}
	}
	out, err := b.anna.run("true", "-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password,keyboard-interactive",
		"-o", "BatchMode=no", "-o", "NumberOfPasswordPrompts=0")
	if err == nil || !strings.Contains(out, "(publickey)") {
		b.t.Errorf("another way in than by key: %v %s", err, out)
	}
}

// desk runs pikelet where attic is this node.
func (b *firstBoot) desk(args ...string) (string, error) {
	return pikelet(append(args, "--ssh-config", b.anna.config(b.anna.host))...)
}

// sendConfig sends the node a config with another hostname.
func (b *firstBoot) sendConfig(hostname string) {
	b.t.Helper()
	text, err := b.cfg.Encode()
	if err != nil {
		b.t.Fatal(err)
	}
	sent := filepath.Join(b.t.TempDir(), "sent.yaml")
	writeFile(b.t, sent, strings.Replace(string(text), "hostname: attic", "hostname: "+hostname, 1), 0o600)
	if out, err := b.desk("node", "send", sent, "attic"); err != nil || !strings.Contains(out, "it counts from the next boot on") {
		b.t.Errorf("sending a config: %v\n%s", err, out)
	}
}

// checkScrubbed checks that the first partition holds no config any more.
func (b *firstBoot) checkScrubbed() {
	b.t.Helper()
	onCard := readCard(b.t, b.card, control(b.t, b.card, slots.NodeFile), slots.NodeSize)
	if bytes.Contains(onCard, []byte("hush")) || bytes.Contains(onCard, []byte(b.cfg.Seed)) ||
		!bytes.HasPrefix(onCard, []byte(nodeconfig.Taken)) {
		b.t.Errorf("the control partition still holds the config: %.300q", onCard)
	}
}

// wipe wipes the node from the desk, after it was asked to confirm.
func (b *firstBoot) wipe(p *pi) {
	b.t.Helper()
	b.anna.must("true")
	p.works("[ $(df -m /var/lib/rancher | tail -1 | awk '{print $2}') -gt 300 ]")
	out, err := b.desk("wipe", "attic")
	if err == nil || !strings.Contains(out, "this forgets the node config, the seed and the clock, and reboots") {
		b.t.Errorf("wipe without --yes: %v\n%s", err, out)
	}
	p.works("echo kept > /var/lib/rancher/kept && sync /var/lib/rancher/kept")
	if out, err := b.desk("wipe", "attic", "--yes"); err != nil {
		b.t.Errorf("wipe: %v\n%s", err, out)
	}
	p.expect("this is lab-52617370, config from nowhere")
}

// attic is a node of that name on a card of 400 MiB, at the prompt of its
// first boot.
func attic(t *testing.T) *pi {
	t.Helper()
	return ready(t, sharedBuild(t, "node.yaml"), "hostname: attic\n", 400)
}

// TestDamagedStateIsNotReformatted: a state that was made and cannot be mounted is
// never made anew by itself. The node comes up with state in memory.
func TestDamagedStateIsNotReformatted(t *testing.T) {
	t.Parallel()
	p := attic(t)
	p.unplug()
	card := p.card
	state := partitionOf(t, card, disk.State)
	overwrite(t, card, state.Start, bytes.Repeat([]byte("damage! "), 256<<10))
	p = boot(t, card)
	p.expect("state is in memory, and forgotten at the next boot", "made once, so it is left as it is")
	p.prompt()
	if got := readCard(t, card, state.Start, 8); string(got) != "damage! " {
		t.Errorf("the damaged state was written to: %q", got)
	}
	p.run("pikeletd reset", "pikeletd reset --volume makes it anew")
	p.run("pikeletd reset --volume", "Say --yes to do it")
	p.run("pikeletd reset --volume --yes", "this is a first boot: state was made on /dev/vda4")
}
