package rolloutsim

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/rollout"
)

var (
	seeds = flag.Int("seeds", 10_000, "number of clusters to simulate")
	seed  = flag.Uint64("seed", 0, "simulate this one alone, and tell what happens")
)

// TestSimulation simulates clusters. One whose seed is printed is told by
// go test ./internal/testing/rolloutsim -run TestSimulation -v -seed SEED.
func TestSimulation(t *testing.T) {
	if *seed != 0 {
		r := Trace(*seed)
		t.Log(strings.Join(r.Trace, "\n"))
		if len(r.Failures) > 0 {
			t.Errorf("failures: %s", strings.Join(r.Failures, "\n"))
		}
		return
	}
	n := *seeds
	if testing.Short() {
		n = min(n, 300)
	}
	var next, stop atomic.Int64
	var mu sync.Mutex
	states, failed := map[rollout.State]int{}, 0
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for i := next.Add(1); i <= int64(n) && stop.Load() < 5; i = next.Add(1) {
				r := Run(uint64(i))
				mu.Lock()
				for _, s := range r.States {
					states[s]++
				}
				if len(r.Failures) > 0 {
					stop.Add(1)
					if failed++; failed <= 5 {
						t.Errorf("seed %d: %s\ntell it by: go test ./internal/testing/rolloutsim -run TestSimulation -v -seed %d", i,
							strings.Join(r.Failures, "\n"), i)
					}
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	t.Logf("clusters: %d, failed: %d, ends: %s", n, failed, fmt.Sprint(states))
	for _, s := range []rollout.State{rollout.Complete, rollout.Halted, rollout.Paused, rollout.Waiting} {
		if states[s] == 0 && n >= 1000 && failed == 0 {
			t.Errorf("no cluster ended %s: the faults are too few", s)
		}
	}
}
