package vm_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/registrytest"
)

// published puts an image into a registry of the test's, as people do.
func published(t *testing.T, s *registrytest.Server, artifact string) {
	t.Helper()
	out, err := exec.Command("../../build/pikelet", "publish", s.Addr+"/small", "--plain-http", "--from", artifact).CombinedOutput()
	if err != nil {
		t.Fatalf("publishing: %v\n%s", err, out)
	}
}

// TestUpgrade: from a registry, a to b: tried, well for as long as it takes,
// committed, and still the default after a power cut. Then b to a, with an
// image whose volume never comes: left, with the reason, and refused the next
// time.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	s, err := registrytest.Start("../../build/tools/registry", t.TempDir(), registrytest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	first := variant(t, "console: root\n", "console: root\nhealth: {soak: 5s, deadline: 40s}\n")
	second := variant(t, "release: \"1.2\"\nboards: [rpi3, vm]", "release: \"1.3\"\nboards: [rpi3, vm]\nhealth: {soak: 5s, deadline: 40s}")
	third := variant(t, "release: \"1.2\"\nboards: [rpi3, vm]", "release: \"1.4\"\nboards: [rpi3, vm]\nhealth: {soak: 5s, deadline: 20s}\ninventory: unwell.yaml")
	published(t, s, second.Artifact.Dir)
	published(t, s, third.Artifact.Dir)
	at := "10.0.2.2" + s.Addr[strings.LastIndexByte(s.Addr, ':'):] + "/small"

	card := cardOf(t, first)
	p := boot(t, card)
	p.prompt()
	p.run("pikeletd upgrade "+at+":1.3", "say --plain-http")
	p.run("pikeletd upgrade --plain-http "+at+":1.3", "small 1.3 is good, and goes to slot b", "all of it reads back as it should", "restarting into the trial of release 1.3",
		"small 1.3, slot b (trial), root verified", "release 1.3 is committed: all checks held for 5s")
	p.run("pikeletd status", "upgrade to 1.3 in slot b: committed")
	p.run("pikeletd upgrade --plain-http "+at+":1.3", "release 1.3 is what this node runs")
	p.Close() // the plug
	p = boot(t, card)
	p.expect("small 1.3, slot b (committed), root verified")
	p.prompt()
	p.run("pikeletd upgrade --plain-http "+at+":1.4", "small 1.4, slot a (trial), root verified", "release 1.4 is not well, and is left: volume: ",
		"small 1.3, slot b (committed), root verified", "release 1.4 was left: after 20s: volume: ")
	p.prompt()
	p.run("pikeletd status", "upgrade to 1.4 in slot a: left, after 20s: volume: ")
	p.run("pikeletd upgrade --plain-http "+at+":1.4", "release 1.4 failed on this node before", "say --again")
	p.off()
}
