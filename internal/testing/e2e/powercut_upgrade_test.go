package e2e

import (
	"flag"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

var (
	kills    = flag.Int("kills", 1, "how many upgrades lose their power")
	killSeed = flag.Int64("kill-seed", 0, "repeats the moments of an earlier run; 0 for new ones")
)

// What the console shows of the slots before and after the upgrade.
const (
	beforeUpgrade = "small 1.2, slot a (committed), root verified"
	afterUpgrade  = "small 1.3, slot b (committed), root verified"
)

// upgradeWrites is about how often a node writes to its card during an upgrade of
// these images, from the first write to the commit.
const upgradeWrites = 50

// TestPowerCutsDuringUpgrade ends QEMU at a random write to the card while a node
// upgrades itself by a patch: while the slot is written, armed, tried, committed; the
// first time right behind arming, before the trial. The next boot is of a whole
// slot, and goes on from there: what was armed is asked for again, three times at
// most, what was cut off before is written anew. The release is never held to
// have failed.
func TestPowerCutsDuringUpgrade(t *testing.T) {
	t.Parallel()
	seed := *killSeed
	if seed == 0 {
		seed = time.Now().UnixNano()
	}
	t.Logf("repeat with: go test ./internal/testing/e2e -run %s -kills %d -kill-seed %d", t.Name(), *kills, seed)
	random := rand.New(rand.NewSource(seed))
	s, at := startRegistry(t)
	first := sharedBuild(t, "small.yaml")
	published(t, s, first.Artifact.Dir)
	published(t, s, next(t, "").Artifact.Dir)
	when := map[slots.Step]int{}
	p := ready(t, first, "", 0)
	for i := range *kills {
		if i > 0 {
			p = bootAfterCut(t, p.card, first)
		}
		startUpgrade(p, at+":1.3")
		if i == 0 {
			p.await("the node restarts into the trial", func() bool {
				return strings.Contains(p.Output(), "restarting into the trial release=1.3")
			})
		} else {
			target := p.CardWrites() + 1 + random.Int63n(upgradeWrites)
			p.await("the power goes", func() bool {
				return p.CardWrites() >= target || strings.Contains(p.Output(), "release is committed: all checks held release=1.3 soak=2s")
			})
		}
		p.Close() // the plug
		step := slots.Step("written")
		if u := recordOn(t, p.card); u != nil {
			step = u.Step
		}
		when[step]++
		if i == 0 && step != slots.Armed {
			t.Errorf("right behind arming the record has step %s, want %s", step, slots.Armed)
		}
	}
	bootsWhole(t, p.card)
	t.Logf("the power went at: %v", when)
}

// bootsWhole boots a card after a power cut and checks that a whole slot comes up,
// and that no release is held to have failed.
func bootsWhole(t *testing.T, card string) (p *pi, slot string) {
	t.Helper()
	p = boot(t, card)
	slot, err := p.ExpectAny(beforeUpgrade, afterUpgrade)
	if err != nil {
		t.Fatalf("booting after a power cut: %v\n%s", err, p.Output())
	}
	if u := recordOn(t, card); u != nil && u.Bad {
		t.Fatalf("after a power cut the record says %+v", *u)
	}
	return p, slot
}

// bootAfterCut boots a card after a power cut. Where the upgrade was committed, it
// returns another node, that has it still to do.
func bootAfterCut(t *testing.T, card string, first *builder.Result) *pi {
	t.Helper()
	p, slot := bootsWhole(t, card)
	if slot == afterUpgrade {
		p.Close()
		return ready(t, first, "", 0)
	}
	return p
}

// startUpgrade waits until a node goes on with an upgrade by itself, and asks for
// one otherwise. Only a trial that lost its power again and again is given up,
// without a word against the release.
func startUpgrade(p *pi, image string) {
	p.t.Helper()
	const again = "asking for the trial again"
	if u := recordOn(p.t, p.card); u != nil && u.Step != slots.Left {
		got, err := p.ExpectAny(again, "release was left release=1.3 reason=\"the trial was")
		if err != nil {
			p.t.Fatal(err)
		}
		if got == again {
			return
		}
	}
	// The prompt may have come before what was waited for.
	p.run("")
	p.prompt()
	p.run("pikeletd upgrade --plain-http "+image, "small 1.3 is good", "by a patch: ")
}
