package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/tools/full"
)

// flashCard writes an image onto a card with pikelet flash.
func flashCard(t *testing.T, r *builder.Result, card string, more ...string) {
	t.Helper()
	out, err := exec.Command("../../../build/pikelet", append([]string{"flash", r.Artifact.Dir, card, "--yes"}, more...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("flashing %v: %v\n%s", more, err, out)
	}
}

// TestFirstBootSetsUpNode: a fresh card becomes named, keyed and grown, lets
// its admin in by key and nobody by password, is the same after a reflash that
// keeps state, but for the name that a config sent before gave it, and after
// one that wipes state.
func TestFirstBootSetsUpNode(t *testing.T) {
	t.Parallel()
	image := sharedBuild(t, "node.yaml")
	key, public := sshKey(t)
	inventory := "cluster-secret: " + clusterSecret + "\ndefaults:\n  users: [{name: anna, admin: true, keys: ['" + public + "']}]\n" +
		"  time: {zone: Asia/Tokyo}\n  files: [{path: /etc/secret, content: hush-hush, secret: true}]\nnodes:\n- {hostname: attic, serial: '52617370'}\n- {hostname: cellar, serial: '00000001'}\n"
	cfg := configOf(t, inventory, "attic")
	nodes, card := filepath.Join(t.TempDir(), "nodes.yaml"), filepath.Join(t.TempDir(), "card")
	if err := os.WriteFile(nodes, []byte(inventory), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(card, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	enlarge(t, card, 600)
	flashCard(t, image, card, "--inventory", nodes, "--node", "attic")
	id, _, err := provision.Identity(cfg, "")
	if err != nil {
		t.Fatal(err)
	}
	anna, with := sshTo(t, "anna", key, id.PublicKey())
	p := boot(t, card, with)
	p.expect("this is a first boot", "this is attic, config from the control partition", id.Fingerprint())
	p.prompt()
	p.works("[ $(hostname) = attic ] && [ $(cat /etc/machine-id) = " + id.MachineID + " ] && grep -q Tokyo /etc/timezone && date | grep JST")
	p.works("[ $(stat -c %a /etc/secret) = 600 ] && [ $(stat -c %a /var/lib/pikelet/state/node/node.yaml) = 600 ]")
	p.works("[ $(df -m /var/lib/rancher | tail -1 | awk '{print $2}') -gt 300 ]") // the card has 600 MiB
	if got := anna.must("hostname; id -un; cat /etc/machine-id"); got != "attic\nanna\n"+id.MachineID+"\n" {
		t.Errorf("over SSH: %q", got)
	}
	if got := anna.must("doas pikeletd status && doas /usr/sbin/pikeletd check"); !strings.Contains(got, "node    attic, config from the control partition") || !strings.Contains(got, "state   on /dev/vda4") {
		t.Errorf("pikeletd status says\n%s", got)
	}
	status, err := node.DecodeStatus([]byte(anna.must("doas pikeletd status --json")))
	if err != nil || status.Node.Hostname != "attic" || !status.Node.State.Made || !status.Node.State.Grown || !status.Volume.Mounted || status.Boot.Slot != slots.A ||
		status.Node.HostKey != id.PublicKey() || status.Node.IQN != id.IQN || status.Node.Config.Source != node.FromCard || status.CardWritten == 0 || status.Space.Size < 300e6 {
		t.Errorf("status --json says %+v (%v)", status, err)
	}
	for _, command := range []string{"doas id", "doas /bin/sh -c id", "cat /var/lib/pikelet/state/node/node.yaml", "cat /etc/secret", "/usr/sbin/pikeletd reset --yes"} {
		if out, err := anna.run(command); err == nil {
			t.Errorf("anna may run %s: %s", command, out)
		}
	}
	if out, err := anna.run("true", "-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password,keyboard-interactive", "-o", "BatchMode=no", "-o", "NumberOfPasswordPrompts=0"); err == nil || !strings.Contains(out, "(publickey)") {
		t.Errorf("another way in than by key: %v %s", err, out)
	}
	sshConfig := filepath.Join(t.TempDir(), "ssh_config")
	text := fmt.Sprintf("Host attic\n HostName 127.0.0.1\n Port %d\n User anna\n IdentityFile %s\n IdentitiesOnly yes\n UserKnownHostsFile %s\n", anna.port, key, anna.host)
	if err := os.WriteFile(sshConfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	desktop := func(args ...string) (string, error) {
		out, err := exec.Command("../../../build/pikelet", append(args, "--ssh-config", sshConfig)...).CombinedOutput()
		return string(out), err
	}
	wipe := func(options ...string) (string, error) {
		return desktop(append([]string{"wipe", "attic"}, options...)...)
	}
	sent := filepath.Join(t.TempDir(), "sent.yaml")
	renamed, err := cfg.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sent, []byte(strings.Replace(string(renamed), "hostname: attic", "hostname: roof", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := desktop("node", "send", sent, "attic"); err != nil || !strings.Contains(out, "it counts from the next boot on") {
		t.Errorf("sending a config: %v\n%s", err, out)
	}
	p.works("hostname | grep attic")
	p.off()
	onCard := readCard(t, card, control(t, card, slots.NodeFile), slots.NodeSize)
	if bytes.Contains(onCard, []byte("hush")) || bytes.Contains(onCard, []byte(cfg.Seed)) || !bytes.HasPrefix(onCard, []byte(nodeconfig.Taken)) {
		t.Errorf("the control partition still holds the config: %.300q", onCard)
	}

	flashCard(t, image, card, "--keep-state")
	p = boot(t, card, with)
	p.expect("this is roof, config from state, SSH host key " + id.Fingerprint())
	if strings.Contains(p.Output(), "first boot") {
		t.Error("the second boot took itself for a first one")
	}
	p.prompt()
	anna.must("true")
	p.works("[ $(df -m /var/lib/rancher | tail -1 | awk '{print $2}') -gt 300 ]")
	if out, err := wipe(); err == nil || !strings.Contains(out, "this forgets the node config, the seed and the clock, and reboots") {
		t.Errorf("wipe without --yes: %v\n%s", err, out)
	}
	p.works("echo kept > /var/lib/rancher/kept && sync /var/lib/rancher/kept")
	if out, err := wipe("--yes"); err != nil {
		t.Errorf("wipe: %v\n%s", err, out)
	}
	p.expect("this is lab-52617370, config from nowhere")
	if !full.Tests {
		return
	}
	p.prompt()
	p.works("grep kept /var/lib/rancher/kept") // --volume was not said
	p.Close()

	flashCard(t, image, card, "--inventory", nodes, "--node", "attic")
	p = boot(t, card, with)
	p.expect("this is a first boot", "this is attic, config from the control partition, SSH host key "+id.Fingerprint())
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
