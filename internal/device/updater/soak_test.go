package updater

import (
	"flag"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/powercut"
)

var upgrades = flag.Int("upgrades", 20, "how many upgrades the soak goes through")

// TestSoak is a long life of one node: one upgrade after the other, to
// releases that are well or not, with something that happens in most of them:
// the power goes, pikeletd is killed, the card refuses writes or does not keep
// them, state is full, the clock jumps. It always starts, from a whole image
// that was well, with whichever firmware.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes long")
	}
	if *seed == 0 {
		*seed = rand.Uint64() >> 20
	}
	random := rand.New(rand.NewPCG(*seed, 2))
	l := newLife(t, newImage(t, "1.0"))
	l.start("", PowerOn)
	l.again = true
	happened := map[string]int{}
	for n := 1; n <= *upgrades; n++ {
		img := l.add(newImage(t, release(n)), random.IntN(4) > 0)
		left := 1 + random.IntN(60)
		what := []string{"nothing", "power", "kill", "write error", "rot", "full", "clock"}[random.IntN(7)]
		l.kill, l.full, l.card.Rots = nil, what == "full", 0
		l.card.Fail = func(at int64, _ int) error {
			if at == powercut.Reading {
				return nil
			}
			left--
			switch {
			case left == 0 && (what == "power" || what == "kill"):
				panic(killed{})
			case left == 0 && what == "clock":
				l.now += 24 * time.Hour
			case left <= 0 && what == "write error":
				return syscall.EIO
			}
			return nil
		}
		if what == "rot" {
			p := l.table().Partitions[l.boot.Slot.Other().Partition()-1]
			l.card.Rots = p.Start + random.Int64N(2<<20)
		}
		_, dead := survive(func() error { return l.event(img, random) })
		l.card.Fail, l.card.Rots, l.full = nil, 0, false
		happened[what]++
		rest := l.card.Card
		if dead && what == "power" {
			rest = l.card.Cut(random)
		}
		for _, f := range powercut.Firmwares {
			n, err := f.Starts(rest, vmRequest)
			if err != nil {
				t.Fatalf("upgrade %s, %s, seed %d: %s: unbootable: %v", img.Manifest.Release, what, *seed, f.Name, err)
			}
			slot, _ := slots.OfPartition(n)
			digest, err := powercut.Whole(rest, slot, l.keys, f.Firmware)
			if err != nil || !l.well[digest] {
				t.Fatalf("upgrade %s, %s, seed %d: %s: slot %s: well %v, %v", img.Manifest.Release, what, *seed, f.Name, slot, l.well[digest], err)
			}
		}
		if dead || l.asked != nil || what == "write error" {
			l.card = powercut.Record(rest)
			if !l.start("", PowerOn) || !l.run() {
				t.Fatalf("upgrade %s, %s, seed %d: it does not come to rest", img.Manifest.Release, what, *seed)
			}
		}
		if !l.well[l.boot.Digest] {
			t.Fatalf("upgrade %s, %s, seed %d: it rests on a release that is not well", img.Manifest.Release, what, *seed)
		}
		l.card = powercut.Record(l.card.Card)
	}
	t.Logf("%d upgrades, unbootable: 0, seed: %d; what happened in them: %v; it runs %s", *upgrades, *seed, happened, l.release)
}
