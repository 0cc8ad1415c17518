package e2e

import (
	"flag"
	"io"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
)

var (
	kills    = flag.Int("kills", 1, "how many upgrades lose their power")
	killSeed = flag.Int64("kill-seed", 0, "repeats the moments of an earlier run; 0 for new ones")
)

// TestUpgradeKilled ends QEMU at a random write to the card while a node
// upgrades itself by a patch: while the slot is written, armed, tried, committed; the
// first time right behind arming, before the trial. The next boot is of a whole
// slot, and goes on from there: what was armed is asked for again, three times at
// most, what was cut off before is written anew. The release is never held to
// have failed.
func TestUpgradeKilled(t *testing.T) {
	t.Parallel()
	seed := *killSeed
	if seed == 0 {
		seed = time.Now().UnixNano()
	}
	t.Logf("repeat with: go test ./internal/testing/e2e -run %s -kills %d -kill-seed %d", t.Name(), *kills, seed)
	random := rand.New(rand.NewSource(seed))
	s, err := registrytest.Start("../../../build/tools/registry", t.TempDir(), registrytest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	first := sharedBuild(t, "small.yaml")
	published(t, s, first.Artifact.Dir)
	published(t, s, next(t, "").Artifact.Dir)
	at := "10.0.2.2" + s.Addr[strings.LastIndexByte(s.Addr, ':'):] + "/small:1.3"
	const (
		old, updated = "small 1.2, slot a (committed), root verified", "small 1.3, slot b (committed), root verified"
		committed    = "release is committed: all checks held release=1.3 soak=2s"
		restarts     = "restarting into the trial release=1.3"
	)
	// An upgrade of these images is some 50 writes from the first to the commit.
	const writes = 50
	when := map[slots.Step]int{}
	p, got := ready(t, first, "", 0), old
	card := p.card
	for i := range *kills {
		if i > 0 {
			p = boot(t, card)
			if got, err = p.ExpectAny(old, updated); err != nil {
				t.Fatalf("before kill %d: %v\n%s", i, err, p.Output())
			}
		}
		u := recordOn(t, card)
		if u != nil && u.Bad {
			t.Fatalf("before kill %d: the record says %+v", i, *u)
		}
		if got == updated {
			// It was committed; another node.
			p.Close()
			p = ready(t, first, "", 0)
			card, u = p.card, nil
		}
		again := u != nil && u.Step != slots.Left
		if again {
			// Nobody has to tell it. Only a trial that lost its power again and
			// again is given up, without a word against the release.
			said, err := p.ExpectAny("asking for the trial again", "release was left release=1.3 reason=\"the trial was")
			if err != nil {
				t.Fatal(err)
			}
			again = said == "asking for the trial again"
		}
		if !again {
			// Its prompt may have come before what it was waited for.
			p.run("")
			p.prompt()
			if _, err := io.WriteString(p, "pikeletd upgrade --plain-http "+at+"\n"); err != nil {
				t.Fatal(err)
			}
			p.expect("small 1.3 is good", "by a patch: ")
		}
		target := p.CardWrites() + 1 + random.Int63n(writes)
		enough := func() bool { return p.CardWrites() >= target || strings.Contains(p.Output(), committed) }
		if i == 0 {
			enough = func() bool { return strings.Contains(p.Output(), restarts) }
		}
		p.await("the power goes", enough)
		p.Close() // the plug
		step := slots.Step("written")
		if u := recordOn(t, card); u != nil {
			step = u.Step
		}
		when[step]++
		if i == 0 && step != slots.Armed {
			t.Errorf("right behind arming the record says %s", step)
		}
	}
	p = boot(t, card)
	if got, err := p.ExpectAny(old, updated); err != nil {
		t.Fatalf("in the end: %s %v\n%s", got, err, p.Output())
	}
	if u := recordOn(t, card); u != nil && u.Bad {
		t.Errorf("in the end the record says %+v", *u)
	}
	t.Logf("the power went at: %v", when)
}

// recordOn returns what a card's record says of an upgrade.
func recordOn(t *testing.T, card string) *slots.Update {
	t.Helper()
	return slots.ReadCard(openFile(t, card)).Update
}
