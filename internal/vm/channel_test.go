package vm_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/registrytest"
)

// TestChannel: a node that is told to watches its channel, and takes the next
// release by itself. Then registry, gateway and all of the network go away: a
// committed node says so, and stays up.
func TestChannel(t *testing.T) {
	t.Parallel()
	s, err := registrytest.Start("../../build/tools/registry", t.TempDir(), registrytest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	channel := "channel: 10.0.2.2" + s.Addr[strings.LastIndexByte(s.Addr, ':'):] + "/small:stable\n"
	first := variant(t, "console: root\n", "console: root\n"+channel)
	second := next(t, channel)
	card := cardOf(t, first)
	configure(t, card, "hostname: attic\nupgrades: {poll: 2s, plain-http: true}\n")
	p := boot(t, card)
	p.expect("looking for new releases: ") // nothing is there yet
	out, err := exec.Command("../../build/pikelet", "publish", s.Addr+"/small", "--plain-http", "--image", second.Artifact.Dir, "--channel", "stable").CombinedOutput()
	if err != nil {
		t.Fatalf("publishing: %v\n%s", err, out)
	}
	p.expect("release 1.3 is new in 10.0.2.2", "restarting into the trial of release 1.3", "small 1.3, slot b (trial), root verified", "release 1.3 is committed: all checks held for 2s")
	s.Stop()
	p.run("ip link set eth0 down", "looking for new releases: ")
	boots := p.Boots()
	p.run("sleep 20; pikeletd check", "MISSING network")
	p.run("pikeletd status", "slot    b, committed")
	if p.Boots() != boots || boots != 2 {
		t.Errorf("it was started %d times, and %d without a network", boots, p.Boots()-boots)
	}
}
