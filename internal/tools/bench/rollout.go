package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pikelet-os/pikelet/internal/testing/rolloutsim"
)

// simulatedSeeds is how many clusters are simulated.
const simulatedSeeds = 4000

// simulation measures how many clusters are simulated a second, on all cores.
func simulation(_ context.Context, _ options, figures map[string]float64) error {
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

// rollout measures a rollout to two nodes of a real control plane, under pods that
// are asked all the time: how long a node is unschedulable at most, and how many
// requests fail. The test that shows it works is what is measured.
func rollout(ctx context.Context, o options, figures map[string]float64) error {
	file := filepath.Join(o.scratch, "figures.json")
	c := exec.CommandContext(ctx, "go", "test", "-tags", "cluster", "-count=1", "-timeout", "1h", "-run", "^TestClusterRollout$",
		"./internal/testing/e2e", "-figures", file)
	c.Dir = filepath.Dir(filepath.Dir(o.pikelet))
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", c, err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, &figures)
}
