package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/powercut"
	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

var (
	crashStates = flag.Int("crash-states", 1, "times as many states of the recorded runs are judged")
	bootStates  = flag.Int("boot-states", 1, "how many of them are booted")
	crashSeed   = flag.Uint64("crash-seed", 0, "repeats an earlier choice of states; 0 takes one by chance")
	crashState  = flag.Int("crash-state", -1, "with -crash-replay and -crash-seed: judge one state, by its number")
	crashReplay = flag.String("crash-replay", "", "a directory with what an earlier run recorded")
)

// recording is what was done to a card in a virtual Pi, and the card before.
type recording struct {
	dir    string // holds card, and writes.1, writes.2 of its boots
	random uint64
}

// card is the file the recording begins with, writes the name of its logs.
func (r recording) card() string   { return filepath.Join(r.dir, "card") }
func (r recording) writes() string { return filepath.Join(r.dir, "writes") }

// run reads the recording.
func (r recording) run(t *testing.T) powercut.Run {
	t.Helper()
	base, err := powercut.Load(r.card())
	if err != nil {
		t.Fatal(err)
	}
	var ops []powercut.Op
	logs, err := filepath.Glob(r.writes() + ".*")
	if err != nil || len(logs) == 0 {
		t.Fatalf("nothing was recorded (%v)", err)
	}
	for _, name := range logs {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		list, err := powercut.ReadLog(f)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		ops = append(append(ops, list...), powercut.Op{Flush: true}) // the machine went through a reset
	}
	parts, err := powercut.CardParts(base)
	if err != nil {
		t.Fatal(err)
	}
	n := *crashStates
	each := map[string]int{
		"commit": 60 * n, "mbr": 60 * n, "arm": 40 * n, "init": 40 * n, "control": 40 * n, "slot a": 30 * n, "slot b": 30 * n,
	}
	return powercut.Run{Base: base, Ops: ops, Parts: parts, Seed: r.random, Only: *crashState, Other: 2 * n, Each: each}
}

// judged judges all states of a run, and prints them by their phases.
func judged(t *testing.T, r recording, run powercut.Run, judge func(*powercut.State) []string) {
	t.Helper()
	phases, distinct, states, bad := map[string]int{}, map[string]map[uint64]bool{}, 0, 0
	err := run.States(func(s *powercut.State) error {
		states++
		phases[s.Phase]++
		if distinct[s.Phase] == nil {
			distinct[s.Phase] = map[uint64]bool{}
		}
		distinct[s.Phase][s.Key] = true
		problems := judge(s)
		if len(problems) == 0 {
			return nil
		}
		if bad++; bad <= 3 {
			t.Errorf("%s:\n\t%s\nrepeat with: go test ./internal/testing/e2e -run %s -crash-replay %s -crash-seed %d -crash-state %d",
				s, strings.Join(problems, "\n\t"), t.Name(), r.keep(t), r.random, s.Number)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, phase := range slices.Sorted(maps.Keys(phases)) {
		t.Logf("%-10s %6d states, %6d distinct", phase, phases[phase], len(distinct[phase]))
	}
	t.Logf("crash states: %d, unbootable: %d, seed: %d", states, bad, r.random)
}

// keep copies the recording to where it is not taken away.
func (r recording) keep(t *testing.T) string {
	if r.dir == *crashReplay {
		return r.dir
	}
	dir := filepath.Join("..", "..", "..", "build", fmt.Sprintf("crash-%d", r.random))
	if err := os.CopyFS(dir, os.DirFS(r.dir)); err != nil {
		t.Log(err) // it may be there already
	}
	dir, _ = filepath.Abs(dir)
	return dir
}

// newRecording returns where to record, or what -crash-replay names.
func newRecording(t *testing.T) (r recording, again bool) {
	r = recording{dir: t.TempDir(), random: *crashSeed}
	if r.random == 0 {
		r.random = rand.Uint64() >> 12
	}
	if *crashReplay != "" {
		r.dir = *crashReplay
		return r, true
	}
	return r, false
}

// TestRecordedUpgradeSurvivesPowerCuts records what a node does to its card from its first boot
// to the commit of an upgrade: it takes and scrubs its config, grows and makes
// state, takes the next release of its channel by itself, writes the other slot,
// arms, tries and commits. At any moment of it a power cut leaves a card from
// which every firmware starts a whole image; some of those cards are started.
// Then registry, gateway and all of the network go away: a committed node says
// so, and stays up.
func TestRecordedUpgradeSurvivesPowerCuts(t *testing.T) {
	t.Parallel()
	s, at := startRegistry(t)
	channel := "health: {soak: 2s, deadline: 10m}\nchannel: " + at + ":stable\n"
	first := variant(t, "console: root\n", "console: root\n"+channel)
	second := variant(t, "release: \"1.2\"\n", "release: \"1.3\"\n"+channel)
	r, again := newRecording(t)
	if !again {
		recordUpgrade(t, r, s, first, second)
	}
	run := r.run(t)
	secret := seedOn(t, run.Base)
	config, size, err := slots.ControlFile(run.Base, must(disk.ReadTable(run.Base)), slots.NodeFile)
	if err != nil {
		t.Fatal(err)
	}
	last := -1
	for i, o := range run.Ops {
		if o.At >= config && o.At < config+size && o.Data != nil {
			last = i
		}
	}
	if last < 0 {
		t.Fatal("the config was never scrubbed")
	}
	flushed := last + slices.IndexFunc(run.Ops[last:], func(o powercut.Op) bool { return o.Flush })
	run.Ops = slices.Insert(run.Ops, flushed+1, powercut.Op{Fact: powercut.Scrubbed})
	key, err := testKey()
	if err != nil {
		t.Fatal(err)
	}
	checker := &powercut.Checker{Keys: []*ecdsa.PublicKey{&key.PublicKey}, Well: []string{first.Digest, second.Digest}, Secret: secret}
	if again {
		checker.Well = nil // they are of another build; that something was never well says nothing here
	}
	seen := map[string]int{}
	var cards []*powercut.Card // some of the states, each as likely as any other
	var names []string
	random, number := rand.New(rand.NewPCG(r.random, 9)), 0
	judged(t, r, run, func(s *powercut.State) []string {
		seen[s.Phase]++
		number++
		if i := random.IntN(number); len(cards) < *bootStates {
			cards, names = append(cards, s.Card()), append(names, s.String())
		} else if i < *bootStates {
			cards[i], names[i] = s.Card(), s.String()
		}
		return checker.Check(s, run.Parts)
	})
	for _, phase := range []string{"commit", "mbr", "arm", "control", "slot b", "state"} {
		if seen[phase] == 0 && *crashState < 0 {
			t.Errorf("nothing was recorded of phase %s", phase)
		}
	}
	for i, c := range cards {
		card := filepath.Join(t.TempDir(), "disk.img")
		if err := c.Dump(card, 300<<20); err != nil {
			t.Fatal(err)
		}
		p := boot(t, card)
		if got, err := p.ExpectAny("small 1.2, slot a (committed), root verified", "small 1.3, slot b (committed), root verified"); err != nil {
			t.Errorf("%s: %s %v", names[i], got, err)
		}
		t.Logf("booted: %s", names[i])
		p.Close()
		os.Remove(card)
	}
	t.Logf("%d of the states were booted", len(cards))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// seedOn returns the node's seed, a secret, from a card's node.yaml.
func seedOn(t *testing.T, card *powercut.Card) []byte {
	t.Helper()
	at, size, err := slots.ControlFile(card, must(disk.ReadTable(card)), slots.NodeFile)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	card.ReadAt(b, at)
	seed := regexp.MustCompile(`[0-9a-f]{64}`).Find(b)
	if seed == nil {
		t.Fatalf("there is no seed in node.yaml: %.200s", b)
	}
	return seed
}

// recordUpgrade is the run. The upgrade comes by a patch.
func recordUpgrade(t *testing.T, r recording, s *registrytest.Server, first, second *builder.Result) {
	t.Helper()
	published(t, s, first.Artifact.Dir)
	if err := vm.CopySparse(first.Disk, r.card()); err != nil {
		t.Fatal(err)
	}
	enlarge(t, r.card(), 300)
	cfg := configOf(t, "cluster-secret: "+clusterSecret+"\nnodes: [{hostname: attic, upgrades: {poll: 2s, plain-http: true}}]\n", "attic")
	if err := provision.Write(r.card(), cfg); err != nil {
		t.Fatal(err)
	}
	p := boot(t, r.card(), func(o *vm.Options) { o.Writes, o.Snapshot = r.writes(), true })
	p.expect("looking for new releases: ") // the channel holds nothing yet
	published(t, s, second.Artifact.Dir, "--channel", "stable")
	p.expect("fetching a new release release=1.3 channel=10.0.2.2", "by a patch: ", "MB were written", "restarting into the trial release=1.3",
		"small 1.3, slot b (trial), root verified", "release is committed: all checks held release=1.3 soak=2s")
	if strings.Contains(p.Output(), "strategy failed") {
		t.Error("the upgrade came in another way than by its patch")
	}
	s.Stop()
	p.run("ip link set eth0 down", "looking for new releases: ")
	boots := p.Boots()
	p.run("sleep 20; pikeletd check", "MISSING network")
	p.run("pikeletd status", "slot    b, committed")
	if p.Boots() != boots || boots != 2 {
		t.Errorf("the node was started %d times, and %d more without a network", boots, p.Boots()-boots)
	}
	p.unplug()
}

// TestRecordedRescueSurvivesPowerCuts records what is done to a card whose default slot is
// damaged: /init writes why, and the other slot comes up as a rescue. At any
// moment of it the firmware still starts what it started before, the slot that
// is whole stays it, and what the records say is not lost. The image's file,
// under a snapshot, is as it was.
func TestRecordedRescueSurvivesPowerCuts(t *testing.T) {
	t.Parallel()
	r, again := newRecording(t)
	if !again {
		card := newCard(t)
		flip(t, card, offset(t, card, slots.A, image.ConfigFile)) // makes /init write a record and a report
		if err := vm.CopySparse(card, r.card()); err != nil {
			t.Fatal(err)
		}
		p := boot(t, card, func(o *vm.Options) { o.Snapshot, o.Writes = true, r.writes() })
		p.expect("slot b (rescue), root verified")
		p.Close()
		if before, err := os.ReadFile(r.card()); err != nil || !bytes.Equal(before, must(os.ReadFile(card))) {
			t.Errorf("the image changed under a snapshot (%v)", err)
		}
	}
	run := r.run(t)
	key, err := testKey()
	if err != nil {
		t.Fatal(err)
	}
	seen, whole := map[string]bool{}, map[uint64]error{}
	judged(t, r, run, func(s *powercut.State) (problems []string) {
		seen[s.Phase] = true
		for _, f := range powercut.Firmwares {
			for req, want := range map[vm.Request]int{{}: 2, {Partition: 3}: 3} {
				if n, err := f.Starts(s, req); n != want {
					problems = append(problems, fmt.Sprintf("%s starts partition %d, not %d (%v)", f.Name, n, want, err))
				}
			}
		}
		// Slot b is read once for everything that is ever found there.
		content := s.Keys[slices.IndexFunc(run.Parts, func(p powercut.Part) bool { return p.Name == "slot b" })]
		if _, ok := whole[content]; !ok {
			_, whole[content] = powercut.Whole(s, slots.B, []*ecdsa.PublicKey{&key.PublicKey}, powercut.Firmwares[0].Firmware)
		}
		if err := whole[content]; err != nil && !again {
			problems = append(problems, "slot b: "+err.Error())
		}
		if slots.ReadCard(run.Base).State != slots.ReadCard(s).State && slots.ReadCard(s).State == "" {
			problems = append(problems, "the card's record is lost")
		}
		return problems
	})
	for _, phase := range []string{"init", "control"} {
		if !seen[phase] && *crashState < 0 {
			t.Errorf("nothing was recorded of phase %s", phase)
		}
	}
}
