package e2e

import (
	"flag"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
)

var (
	cuts    = flag.Int("cuts", 1, "how many first boots lose their power")
	cutSeed = flag.Int64("cut-seed", 0, "repeats the moments of an earlier run; 0 for new ones")
)

// TestPowerCutsDuringFirstBoot pulls the plug at random moments of a first
// boot: while state is made and grown, the config is taken and scrubbed. The
// next boot always completes, as the node that the config makes.
func TestPowerCutsDuringFirstBoot(t *testing.T) {
	t.Parallel()
	seed := *cutSeed
	if seed == 0 {
		seed = time.Now().UnixNano()
	}
	t.Logf("repeat with: go test ./internal/testing/e2e -run %s -cuts %d -cut-seed %d", t.Name(), *cuts, seed)
	random := rand.New(rand.NewSource(seed))
	image := sharedBuild(t, "node.yaml")
	cfg := configOf(t, "cluster-secret: "+clusterSecret+"\nnodes: [{hostname: attic}]\n", "attic")
	id, _, err := provision.Identity(cfg, "")
	if err != nil {
		t.Fatal(err)
	}
	during := map[string]int{}
	var whole time.Duration // from the start until the node is prepared; the first cut is right behind it
	for i := range *cuts {
		card := cardOf(t, image)
		enlarge(t, card, 600)
		if err := provision.Write(card, cfg); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		p := boot(t, card)
		// The kernel and the check of the slot take the first half of whole.
		moment := whole * time.Duration(45+random.Intn(60)) / 100
		if i == 0 {
			p.expect("this is attic")
			moment = time.Since(start)
			whole = moment
		}
		time.Sleep(moment - time.Since(start))
		p.Close()
		during[stage(p.Output(), card, t)]++
		p = boot(t, card)
		p.expect("this is attic, config from ", "SSH host key "+id.Fingerprint(), "slot a (committed), root verified")
		if out := p.Output(); strings.Contains(out, "in memory") || strings.Contains(out, "not taken") || strings.Contains(out, "failed") {
			t.Errorf("cut %d, after %v: the next boot says\n%s", i, moment, out)
		}
		p.Close()
		if size := partitionOf(t, card, disk.State).Size; size < 300<<20 {
			t.Errorf("cut %d, after %v: state has %d bytes", i, moment, size)
		}
	}
	t.Logf("the power went: %v", during)
}

// stage says how far a boot that was cut off had come.
func stage(console, card string, t *testing.T) string {
	switch {
	case strings.Contains(console, "this is attic"):
		return "after the node was prepared"
	case partitionOf(t, card, disk.State).Size > 300<<20:
		return "after state was grown"
	}
	return "before"
}
