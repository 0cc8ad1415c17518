package e2e

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
	"github.com/pikelet-os/pikelet/internal/tools/full"
)

// published puts an image into a registry of the test's, as people do, with
// patches for the releases that are there.
func published(t *testing.T, s *registrytest.Server, artifact string, more ...string) {
	t.Helper()
	out, err := exec.Command("../../../build/pikelet", append([]string{"publish", s.Addr + "/small", "--plain-http", "--image", artifact, "--sign-key", signingFile(t)}, more...)...).CombinedOutput()
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

// TestUpgrade: from the desk over SSH, out of a registry, a to b: tried, well
// for as long as it takes, and committed. A host whose key is another one is
// not touched. Then back to a, to what it still holds. Then a release whose own
// check fails: left, with the reason, and refused the next time.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	s, err := registrytest.Start("../../../build/tools/registry", t.TempDir(), registrytest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	release := func(number, deadline, more string) *builder.Result {
		return variant(t, "release: \"1.2\"\n", "release: \""+number+"\"\nhealth: {soak: 2s, deadline: "+deadline+"}\noverlays: [ssh]\n"+more)
	}
	sick := filepath.Join(t.TempDir(), "usr/lib/pikelet/checks.d")
	if err := os.MkdirAll(sick, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(sick, "fan"), []byte("#!/bin/sh\necho the fan stands still\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	first := release("1.2", "10m", "")
	published(t, s, first.Artifact.Dir)
	published(t, s, release("1.3", "10m", "").Artifact.Dir)
	if full.Tests {
		published(t, s, release("1.4", "10s", "layers: [{folder: "+strings.TrimSuffix(sick, "/usr/lib/pikelet/checks.d")+"}]\n").Artifact.Dir)
	}
	at := "10.0.2.2" + s.Addr[strings.LastIndexByte(s.Addr, ':'):] + "/small"

	key, public := sshKey(t)
	card := cardOf(t, first)
	cfg := configOf(t, "cluster-secret: "+clusterSecret+"\ndefaults: {users: [{name: anna, admin: true, keys: ['"+public+"']}]}\nnodes: [{hostname: attic}]\n", "attic")
	if err := provision.Write(card, cfg); err != nil {
		t.Fatal(err)
	}
	id, _, err := provision.Identity(cfg, "")
	if err != nil {
		t.Fatal(err)
	}
	anna, with := sshTo(t, "anna", key, id.PublicKey())
	upgrade := func(known, more string, flags ...string) (string, error) {
		config := filepath.Join(t.TempDir(), "config")
		text := fmt.Sprintf("Host attic\nHostName 127.0.0.1\nPort %d\nUser anna\nIdentityFile %s\nIdentitiesOnly yes\nBatchMode yes\nStrictHostKeyChecking yes\nUserKnownHostsFile %s\nGlobalKnownHostsFile /dev/null\nConnectTimeout 10\n", anna.port, key, known)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("../../../build/pikelet", append(append([]string{"upgrade", "--ssh-config", config, "--plain-http"}, flags...), "attic", at+more)...).CombinedOutput()
		return string(out), err
	}
	p := boot(t, card, with)
	p.prompt()
	anna.must("true") // the server answers
	stranger := filepath.Join(t.TempDir(), "known_hosts")
	_, other := sshKey(t)
	if err := os.WriteFile(stranger, []byte(fmt.Sprintf("[127.0.0.1]:%d %s\n", anna.port, other)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := upgrade(stranger, ":1.3"); err == nil || !strings.Contains(out, "attic: ") {
		t.Errorf("a host with another key: %v\n%s", err, out)
	}
	if out, err := upgrade(anna.host, ":1.3", "--dry-run"); err != nil || !strings.Contains(out, "attic: by a patch: ") || !strings.Contains(out, "attic: else by the whole image: ") {
		t.Errorf("a dry run: %v\n%s", err, out)
	}
	if out, err := upgrade(anna.host, ":1.3"); err != nil || !strings.Contains(out, "attic: 1.2 -> 1.3, committed") || !strings.Contains(out, "by a patch: ") {
		t.Errorf("upgrading over SSH: %v\n%s", err, out)
	}
	p.expect("small 1.3, slot b (trial), root verified", "release is committed: all checks held release=1.3 soak=2s")
	p.run("pikeletd status", "upgrade to 1.3 in slot b: committed")
	if out, err := upgrade(anna.host, ":1.3"); err != nil || !strings.Contains(out, "attic: runs 1.3 already") {
		t.Errorf("once more: %v\n%s", err, out)
	}
	p.run("pikeletd upgrade "+at+":1.4", "say --plain-http")
	p.run("pikeletd rollback", "slot a holds small 1.2, whole and signed", "small 1.2, slot a (trial), root verified", "release is committed: all checks held release=1.2")
	if !full.Tests {
		return // TestTrialsThatFail and TestNetboot have releases that are not well
	}
	p.run("pikeletd upgrade --plain-http "+at+":1.4", "small 1.4 is good, and goes to slot b", "all of it reads back as it should", "small 1.4, slot b (trial), root verified",
		"release is not well, and is left release=1.4 reason=\"after 10s: fan: the fan stands still", "small 1.2, slot a (committed), root verified")
	p.prompt()
	p.run("pikeletd status", "upgrade to 1.4 in slot b: left, after 10s: fan: the fan stands still")
	p.run("pikeletd upgrade --plain-http "+at+":1.4", "release 1.4 failed on this node before", "say --again")
	p.works("grep -q 'MISSING fan .* the fan stands still' /var/lib/pikelet/state/report.txt")
	p.off()
	report, err := os.ReadFile(filepath.Join(dumpControl(t, card), slots.ReportFile))
	if err != nil || !strings.Contains(string(report), "MISSING fan") || !strings.Contains(string(report), "ok      network") || !strings.Contains(string(report), "-- the kernel") {
		t.Errorf("report.txt says (%v):\n%.600s", err, report)
	}
}
