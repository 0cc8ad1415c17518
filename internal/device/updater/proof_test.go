package updater

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/patch"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/powercut"
)

var (
	states = flag.Int("states", 2_000, "how many states of a card after a power cut are judged, at least")
	seed   = flag.Uint64("seed", 0, "repeats an earlier proof; 0 takes one by chance")
	only   = flag.String("state", "", "with -seed: judge one state, named as the proof names it, LIFE.RUN.STATE")
)

// record is a stretch of a life from one power cut to the next.
type record struct {
	run  powercut.Run
	well []string // images that were well before it
}

// each is how many states are made of an epoch, by what it writes.
var each = map[string]int{"commit": 40, "mbr": 40, "arm": 22, "control": 60, "init": 20, "slot a": 40, "slot b": 40}

// lived lets a node live: it takes its config, grows its state, is upgraded to
// releases that are well and to some that are not, drills, goes back, and
// loses its power in between, at any moment. Everything done to its card is
// recorded. mutate may change the node first.
func lived(t testing.TB, number int, seed uint64, mutate func(*life)) []record {
	random := rand.New(rand.NewPCG(seed, uint64(number)))
	l := newLife(t, newImage(t, release(0)))
	if mutate != nil {
		mutate(l)
	}
	l.start("", PowerOn)
	var list []record
	well := []string{l.boot.Digest}
	end := func() {
		parts, err := powercut.CardParts(l.card.Base)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, record{powercut.Run{
			Base: l.card.Base, Ops: l.card.Ops, Parts: parts,
			Seed: seed<<8 + uint64(number)<<4 + uint64(len(list)),
			Each: each, Only: -1, Gone: true,
		}, slices.Clone(well)})
		for _, o := range l.card.Ops {
			if d, ok := strings.CutPrefix(o.Fact, powercut.Well); ok {
				well = append(well, d)
			}
		}
	}
	l.settle(random)
	for n := 1; n <= 12; n++ {
		img := l.add(newImage(t, release(20*number+n)), random.IntN(5) > 0)
		cut := random.IntN(4) == 0
		if cut {
			left := 1 + random.IntN(60)
			l.card.Fail = func(at int64, _ int) error {
				if at == powercut.Reading {
					return nil // also done by goroutines that cannot be killed
				}
				if left--; left == 0 {
					panic(killed{})
				}
				return nil
			}
		}
		// Only the card is judged, not the errors of a node.
		_, dead := survive(func() error { return l.event(img, random) })
		l.card.Fail = nil
		if !dead {
			continue
		}
		end()
		rest := l.card.Cut(random)
		l.card = powercut.Record(rest)
		if !l.start("", PowerOn) || !l.run() {
			t.Fatalf("life %d with seed %d does not go on", number, seed)
		}
	}
	end()
	return list
}

// settle is a first boot: config taken and scrubbed, state grown and made.
func (l *life) settle(random *rand.Rand) {
	steps := []error{
		Scrub(l.card, l.table(), slots.NodeFile, nodeconfig.Taken, func(int64, int64) {}),
	}
	l.card.Fact(powercut.Scrubbed)
	for _, state := range []string{slots.StateMaking, slots.StateMade} {
		steps = append(steps, slots.ChangeCard(l.card, func(c *slots.Card) { c.State = state }), l.card.Flush())
	}
	steps = append(steps, l.grow(random))
	for _, err := range steps {
		if err != nil {
			l.t.Fatal(err)
		}
	}
}

// grow is what happens on a card that was copied to a larger one.
func (l *life) grow(random *rand.Rand) error {
	t := l.table()
	_, err := Grow(l.card, t, t.Partitions[disk.State-1].Start+disk.MiB*(16+random.Int64N(200_000)))
	return err
}

// event is something that happens in a node's life. Images come by any strategy.
func (l *life) event(img image.Image, random *rand.Rand) error {
	l.strategy = []string{"", patch.ByFiles, patch.ByPatch}[random.IntN(3)]
	switch random.IntN(14) {
	case 0:
		return l.grow(random)
	case 1:
		if _, err := l.upgrade(img, true); err != nil {
			return err
		}
	case 2:
		if err := l.updater().Arm(context.Background(), Order{Return: true}); err != nil {
			return err // nothing to go back to yet
		}
	default:
		err := l.grow(random)
		if err == nil {
			err = l.through(img)
		}
		return err
	}
	l.start(*l.asked, Watchdog)
	l.run()
	return nil
}

// tally counts what was judged.
type tally struct {
	sync.Mutex
	states, unbootable, others int
	phases                     map[string]int
	distinct                   map[string]map[uint64]bool
	epochs                     map[string]map[string]bool // by phase, named LIFE.RUN.EPOCH
	gone                       map[string]int             // states with an unreadable sector, by phase and outcome
	problems                   []string
}

func newTally() *tally {
	return &tally{
		phases: map[string]int{}, distinct: map[string]map[uint64]bool{}, epochs: map[string]map[string]bool{}, gone: map[string]int{},
	}
}

// judge judges the states of a run.
func (y *tally) judge(t testing.TB, r record, name string) {
	key, err := testKey()
	if err != nil {
		t.Fatal(err)
	}
	checker := &powercut.Checker{Keys: publics(key), Well: r.well, Secret: []byte(secret)}
	dir := t.TempDir()
	err = r.run.States(func(s *powercut.State) error {
		problems := checker.Check(s, r.run.Parts)
		y.Lock()
		defer y.Unlock()
		if s.Gone >= 0 {
			y.lost(s, problems, name)
			return nil
		}
		y.states++
		y.phases[s.Phase]++
		if y.distinct[s.Phase] == nil {
			y.distinct[s.Phase], y.epochs[s.Phase] = map[uint64]bool{}, map[string]bool{}
		}
		y.distinct[s.Phase][s.Key] = true
		y.epochs[s.Phase][fmt.Sprintf("%s.%d", name, s.Epoch)] = true
		if len(problems) > 0 {
			y.unbootable++
			y.problems = append(y.problems, fmt.Sprintf("%s.%d, %s:\n\t%s", name, s.Number, s, strings.Join(problems, "\n\t")))
		}
		if y.states%1000 == 0 || r.run.Only >= 0 {
			y.others++
			n, err := powercut.Firmwares[0].Starts(s, vmRequest)
			if err != nil {
				return nil // said above
			}
			l, _ := slots.OfPartition(n)
			if err := s.Others(dir, l); err != nil {
				y.problems = append(y.problems, fmt.Sprintf("%s.%d, %s: others do not read slot %s: %v", name, s.Number, s, l, err))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// lost counts a state with a sector that can't be read any more. A default
// slot that is one of two whole ones is found by firmware that walks; what
// else there is, repairing the control partition helps (docs/upgrades.md).
func (y *tally) lost(s *powercut.State, problems []string, name string) {
	what := "boots everywhere"
	for _, p := range problems {
		switch {
		case !strings.Contains(p, "unbootable") && !strings.Contains(p, "never was well"):
			// what a trial would be, when nothing says what the default is
		case strings.HasPrefix(p, powercut.Firmwares[0].Name):
			what = "boots nowhere"
		case what != "boots nowhere":
			what = "boots with an EEPROM that walks"
		}
	}
	y.gone[s.Phase+" "+what]++
	if what == "boots nowhere" && s.Phase != "mbr" {
		y.problems = append(y.problems, fmt.Sprintf("%s.%d, %s: %s", name, s.Number, s, strings.Join(problems, "; ")))
	}
}

// TestProof: at every moment of a node's life a power cut leaves a card from
// which every firmware starts a whole image that was well.
func TestProof(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64() >> 20
	}
	if testing.Short() {
		*states = 500 // of which mtools judge none
	}
	y := newTally()
	if *only != "" {
		var number, run, state int
		if _, err := fmt.Sscanf(*only, "%d.%d.%d", &number, &run, &state); err != nil {
			t.Fatalf("-state %s: %v", *only, err)
		}
		r := lived(t, number, *seed, nil)[run]
		r.run.Only = state
		y.judge(t, r, fmt.Sprintf("%d.%d", number, run))
		t.Logf("%d states judged: %s", y.states, strings.Join(append(y.problems, "done"), "\n"))
		return
	}
	next := make(chan int)
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			for number := range next {
				for i, r := range lived(t, number, *seed, nil) {
					y.judge(t, r, fmt.Sprintf("%d.%d", number, i))
				}
			}
		})
	}
	for number := 0; ; number++ {
		y.Lock()
		enough := y.states >= *states || len(y.problems) > 0
		y.Unlock()
		if enough {
			break
		}
		next <- number
	}
	close(next)
	group.Wait()
	for _, phase := range slices.Sorted(maps.Keys(y.phases)) {
		t.Logf("%-10s %7d epochs, %7d states, %7d distinct", phase, len(y.epochs[phase]), y.phases[phase], len(y.distinct[phase]))
	}
	for _, what := range slices.Sorted(maps.Keys(y.gone)) {
		t.Logf("a sector that can't be read any more, %s: %d", what, y.gone[what])
	}
	t.Logf("crash states: %d, unbootable: %d, seed: %d; %d judged by go-diskfs and mtools too", y.states, y.unbootable, *seed, y.others)
	for _, p := range y.problems[:min(len(y.problems), 5)] {
		t.Errorf("repeat with: go test ./internal/device/updater -run TestProof -seed %d -state %s", *seed, p)
	}
	// An epoch leaves at least two cards, which powercut makes first: with nothing of
	// it, and with all of it. A commit leaves two more at most: the partition numbers
	// in autoboot.txt are the only bytes that differ, and each is old or new. How
	// many states are judged does not change that, only how many epochs there are: of
	// each phase more than one in 2000 states.
	for _, phase := range []string{"arm", "commit", "control", "mbr"} {
		epochs, distinct := len(y.epochs[phase]), len(y.distinct[phase])
		if epochs <= *states/2000 {
			t.Errorf("%s: got %d epochs, want more than %d", phase, epochs, *states/2000)
		}
		if distinct < 2*epochs {
			t.Errorf("%s: got %d distinct states of %d epochs, want at least 2 each", phase, distinct, epochs)
		}
	}
}
