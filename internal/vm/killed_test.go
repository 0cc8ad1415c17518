package vm_test

import (
	"flag"
	"io"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/registrytest"
	"github.com/pikelet-os/pikelet/internal/slots"
)

var (
	kills    = flag.Int("kills", 6, "how many upgrades lose their power")
	killSeed = flag.Int64("kill-seed", 0, "repeats the moments of an earlier run; 0 for new ones")
)

// TestUpgradeKilled ends QEMU at a random write to the card while a node
// upgrades itself: while the slot is written, armed, tried, committed. The next
// boot is of a whole slot, and goes on from there; the release is never held
// to have failed.
func TestUpgradeKilled(t *testing.T) {
	t.Parallel()
	seed := *killSeed
	if seed == 0 {
		seed = time.Now().UnixNano()
	}
	t.Logf("repeat with: go test ./internal/vm -run %s -kills %d -kill-seed %d", t.Name(), *kills, seed)
	random := rand.New(rand.NewSource(seed))
	s, err := registrytest.Start("../../build/tools/registry", t.TempDir(), registrytest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	first := sharedBuild(t, "small.yaml")
	published(t, s, bad(t, "", nil).Artifact.Dir) // nothing is bad about it
	at := "10.0.2.2" + s.Addr[strings.LastIndexByte(s.Addr, ':'):] + "/small:1.3"
	upgrade := func(p *pi) {
		t.Helper()
		p.prompt()
		if _, err := io.WriteString(p, "pikeletd upgrade --plain-http "+at+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	const committed = "release 1.3 is committed: all checks held for 5s"
	when := map[slots.Step]int{}
	var whole int64 // writes of an upgrade nothing happens to
	for i := range *kills + 1 {
		card := cardOf(t, first)
		p := boot(t, card)
		upgrade(p)
		p.expect("small 1.3 is good")
		before := p.CardWrites()
		target := int64(1 << 40)
		if i > 0 {
			target = before + 1 + random.Int63n(whole)
		}
		for start := time.Now(); p.CardWrites() < target && !strings.Contains(p.Output(), committed); time.Sleep(5 * time.Millisecond) {
			if time.Since(start) > patience {
				t.Fatalf("the upgrade does not end:\n%s", p.Output())
			}
		}
		writes := p.CardWrites()
		p.Close() // the plug
		if i == 0 {
			whole = writes - before
			continue
		}
		step := slots.Step("written")
		if u := recordOn(t, card); u != nil {
			step = u.Step
		}
		when[step]++
		p = boot(t, card)
		got, err := p.ExpectAny([]string{"small 1.2, slot a (committed), root verified", "small 1.3, slot b (committed), root verified"}, patience)
		if err != nil {
			t.Fatalf("kill %d, at write %d of %d: %v\n%s", i, writes-before, whole, err, p.Output())
		}
		if step == slots.Armed || step == slots.Tried && strings.HasPrefix(got, "small 1.2") {
			p.expect(committed) // it was asked for, and is asked for again
		}
		p.Close()
		if u := recordOn(t, card); u != nil && (u.Bad || u.Step == slots.Left) {
			t.Errorf("kill %d, at write %d of %d: the record says %+v", i, writes-before, whole, *u)
		}
	}
	t.Logf("an upgrade is %d writes; the power went at: %v", whole, when)
}

// recordOn returns what a card's record says of an upgrade.
func recordOn(t *testing.T, card string) *slots.Update {
	t.Helper()
	return slots.ReadCard(openFile(t, card)).Update
}
