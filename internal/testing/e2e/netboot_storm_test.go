package e2e

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

var (
	storm      = flag.Int("storm", 12, "how many Pis boot at once")
	lossyStorm = flag.Int("lossy-storm", 4, "how many of them where packets are lost")
)

// TestBootStorm: power comes back to twelve Pis; and to four behind a cable that
// loses one packet in a hundred each way; make soak has a hundred and twenty.
// Another machine speaks for each of them all the while. Each has all its files,
// and is not told of anything that is not there. The log says how long the
// slowest file took, of which the firmware has 30 s.
func TestBootStorm(t *testing.T) {
	r := variant(t, servedBoards[0], servedBoards[1])
	for _, c := range []struct {
		pis  int
		loss float64
	}{{*storm, 0}, {*lossyStorm, 0.01}} {
		t.Run(fmt.Sprintf("%d Pis, %g lost", c.pis, c.loss), func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			l := newLAN(t)
			nodes := "nodes:\n"
			var all []*vm.NetROM
			var serials []uint32
			for i := range c.pis {
				rom, _ := l.pi([]string{"3", "4", "5", "4"}[i%4], uint32(0x1000+i))
				rom.Loss, rom.Rand = c.loss, rand.New(rand.NewPCG(seed, uint64(i)))
				nodes += fmt.Sprintf("- {serial: '%08x', mac: '%s'}\n", rom.Serial, rom.MAC)
				all, serials = append(all, rom), append(serials, rom.Serial)
			}
			s := l.serve(r.Artifact.Dir, nodes, "--pool", "10.77.0.50-10.77.0.250")
			l.hostile(r.Manifest.BuildID, "10.77.0.66", serials...)
			start := time.Now()
			var done sync.WaitGroup
			var tries atomic.Int32
			slowest := make([]time.Duration, len(all))
			for i, rom := range all {
				done.Add(1)
				go func() {
					defer done.Done()
					// BOOT_ORDER's f: who finds nothing begins again. What a Pi 3
					// does then is another boot ROM's matter: it is given power anew.
					for try := range 10 {
						tries.Add(1)
						got, err := rom.Boot(context.Background())
						if err == nil {
							if len(got.Kernel) == 0 || len(got.Initramfs) == 0 {
								t.Errorf("%08x has no kernel", rom.Serial)
							}
							slowest[i] = got.SlowestFile
							return
						}
						if !strings.Contains(err.Error(), "no boot server") || try == 9 {
							t.Error(err)
							return
						}
					}
				}()
			}
			done.Wait()
			s.untouched(t)
			t.Logf("%d Pis had all they need after %.1f s, in %d tries, the slowest file after %.1f s; the firmware gives it 30 s",
				c.pis, time.Since(start).Seconds(), tries.Load(), slices.Max(slowest).Seconds())
		})
	}
}
