package e2e

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
	"github.com/pikelet-os/pikelet/internal/tools/full"
)

// published puts an image into a registry of the test's, as people do, with
// patches for the releases that are there.
func published(t *testing.T, s *registrytest.Server, artifact string, more ...string) {
	t.Helper()
	args := []string{"publish", s.Addr + "/small", "--plain-http", "--image", artifact, "--sign-key", signingFile(t)}
	out, err := pikelet(append(args, more...)...)
	if err != nil {
		t.Fatalf("publishing: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// signingFile writes the key of these tests' images.
func signingFile(t *testing.T) string {
	t.Helper()
	key, err := testKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "test.key")
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// startRegistry starts a registry, and returns the address that guests reach its
// repository small at.
func startRegistry(t *testing.T) (s *registrytest.Server, small string) {
	t.Helper()
	s, err := registrytest.Start("../../../build/tools/registry", t.TempDir(), registrytest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s, "10.0.2.2" + s.Addr[strings.LastIndexByte(s.Addr, ':'):] + "/small"
}

// upgradeOverSSH is the story of a node that its admin anna upgrades.
type upgradeOverSSH struct {
	t    *testing.T
	card string
	at   string // the repository
	anna login
	with func(*vm.Options)
}

// TestUpgradeCommitsAndRollsBack upgrades a node from the desk over SSH, out of a
// registry, from slot a to b: tried, healthy for as long as it takes, and committed.
// A host with another key than expected is not touched. Then back to what slot a
// still holds. Then a release whose own check fails: rolled back, with the reason,
// and refused the next time.
func TestUpgradeCommitsAndRollsBack(t *testing.T) {
	t.Parallel()
	s, at := startRegistry(t)
	release := func(number, deadline, more string) *builder.Result {
		text := fmt.Sprintf("release: %q\nhealth: {soak: 2s, deadline: %s}\noverlays: [ssh]\n%s", number, deadline, more)
		return variant(t, "release: \"1.2\"\n", text)
	}
	first := release("1.2", "10m", "")
	published(t, s, first.Artifact.Dir)
	published(t, s, release("1.3", "10m", "").Artifact.Dir)
	if full.Tests {
		published(t, s, release("1.4", "10s", "layers: [{folder: "+failingCheck(t)+"}]\n").Artifact.Dir)
	}
	u := &upgradeOverSSH{t: t, card: cardOf(t, first), at: at}
	u.provision()
	p := boot(t, u.card, u.with)
	p.prompt()
	u.anna.must("true") // the server answers
	u.refusesOtherHostKey()
	u.commits(p)
	p.run("pikeletd upgrade "+at+":1.4", "say --plain-http")
	p.run("pikeletd rollback", "slot a holds small 1.2, whole and signed", "small 1.2, slot a (trial), root verified",
		"release is committed: all checks held release=1.2")
	if full.Tests { // TestTrialWithFailingChecksIsRolledBack and TestNetbootFollowsReleases have such releases, too
		u.rollsBack(p)
	}
}

// provision writes the config of a node with the admin anna onto the card.
func (u *upgradeOverSSH) provision() {
	u.t.Helper()
	key, public := sshKey(u.t)
	cfg := configOf(u.t, fmt.Sprintf(`cluster-secret: %s
defaults: {users: [{name: anna, admin: true, keys: ['%s']}]}
nodes: [{hostname: attic}]
`, clusterSecret, public), "attic")
	if err := provision.Write(u.card, cfg); err != nil {
		u.t.Fatal(err)
	}
	id, _, err := provision.Identity(cfg, "")
	if err != nil {
		u.t.Fatal(err)
	}
	u.anna, u.with = sshTo(u.t, "anna", key, id.PublicKey())
}

// upgrade runs pikelet upgrade for release 1.3, with a file of host keys.
func (u *upgradeOverSSH) upgrade(knownHosts string, flags ...string) (string, error) {
	config := u.anna.config(knownHosts, "BatchMode yes", "StrictHostKeyChecking yes", "GlobalKnownHostsFile /dev/null", "ConnectTimeout 10")
	args := append([]string{"upgrade", "--ssh-config", config, "--plain-http"}, flags...)
	return pikelet(append(args, "attic", u.at+":1.3")...)
}

// refusesOtherHostKey expects that a host whose key is not the known one is not
// upgraded.
func (u *upgradeOverSSH) refusesOtherHostKey() {
	u.t.Helper()
	_, other := sshKey(u.t)
	stranger := filepath.Join(u.t.TempDir(), "known_hosts")
	writeFile(u.t, stranger, fmt.Sprintf("[127.0.0.1]:%d %s\n", u.anna.port, other), 0o600)
	if out, err := u.upgrade(stranger); err == nil || !strings.Contains(out, "attic: ") {
		u.t.Errorf("a host with another key: %v\n%s", err, out)
	}
}

// commits expects an upgrade to release 1.3 by a patch, which is committed.
func (u *upgradeOverSSH) commits(p *pi) {
	u.t.Helper()
	out, err := u.upgrade(u.anna.host, "--dry-run")
	if err != nil || !containsAll(out, "attic: by a patch: ", "attic: else by the whole image: ") {
		u.t.Errorf("a dry run: %v\n%s", err, out)
	}
	out, err = u.upgrade(u.anna.host)
	if err != nil || !containsAll(out, "attic: 1.2 -> 1.3, committed", "by a patch: ") {
		u.t.Errorf("upgrading over SSH: %v\n%s", err, out)
	}
	p.expect("small 1.3, slot b (trial), root verified", "release is committed: all checks held release=1.3 soak=2s")
	p.run("pikeletd status", "upgrade to 1.3 in slot b: committed")
	if out, err := u.upgrade(u.anna.host); err != nil || !strings.Contains(out, "attic: runs 1.3 already") {
		u.t.Errorf("once more: %v\n%s", err, out)
	}
}

// rollsBack expects that release 1.4 is rolled back because its check fails, that
// the reports have the reason, and that the release is refused from then on.
func (u *upgradeOverSSH) rollsBack(p *pi) {
	u.t.Helper()
	upgrade := "pikeletd upgrade --plain-http " + u.at + ":1.4"
	p.run(upgrade, "small 1.4 is good, and goes to slot b", "all of it reads back as it should",
		"small 1.4, slot b (trial), root verified",
		"leaving an unhealthy release release=1.4 reason=\"after 10s: fan: the fan stands still",
		"small 1.2, slot a (committed), root verified")
	p.prompt()
	p.run("pikeletd status", "upgrade to 1.4 in slot b: left, after 10s: fan: the fan stands still")
	p.run(upgrade, "release 1.4 failed on this node before", "say --again")
	p.works("grep -q 'MISSING fan .* the fan stands still' /var/lib/pikelet/state/report.txt")
	p.off()
	if report := controlFile(u.t, u.card, slots.ReportFile); !containsAll(report, "MISSING fan", "ok      network", "-- the kernel") {
		u.t.Errorf("report.txt holds\n%.600s", report)
	}
}
