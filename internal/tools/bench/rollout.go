package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pikelet-os/pikelet/internal/testing/rolloutsim"
)

// simulatedSeeds is how many clusters are simulated.
const simulatedSeeds = 4000

// rollouts measures how many clusters are simulated a second, on all cores.
func rollouts(_ context.Context, _ options, figures map[string]float64) error {
	var next atomic.Uint64
	var mu sync.Mutex
	var group sync.WaitGroup
	var failed []string
	start := time.Now()
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for i := next.Add(1); i <= simulatedSeeds; i = next.Add(1) {
				if r := rolloutsim.Run(i); len(r.Failures) > 0 {
					mu.Lock()
					failed = append(failed, fmt.Sprintf("seed %d: %s", i, r.Failures[0]))
					mu.Unlock()
				}
			}
		})
	}
	group.Wait()
	if len(failed) > 0 {
		return fmt.Errorf("simulating rollouts: %s", strings.Join(failed, "; "))
	}
	figures["rollout_simulated_seeds_per_second"] = simulatedSeeds / time.Since(start).Seconds()
	return nil
}
