package volume

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// TestWatchdogDuringShutdown: the watchdog does not restart a trial that stops
// while pods end, and does when stopping hangs.
func TestWatchdogDuringShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var signs []time.Duration
		start := time.Now()
		limit := stopLimit(nodeconfig.MaxShutdownGrace)
		stop := signsOfLife(func() { signs = append(signs, time.Since(start)) }, limit)
		time.Sleep(limit + time.Hour)
		stop()
		last := time.Duration(0)
		for _, s := range signs {
			if s-last > time.Minute/2 {
				t.Errorf("silent from %v to %v", last, s)
			}
			last = s
		}
		if last < nodeconfig.MaxShutdownGrace || last > limit {
			t.Errorf("the last sign came after %v, want between %v and %v", last, nodeconfig.MaxShutdownGrace, limit)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		signs := 0
		stop := signsOfLife(func() { signs++ }, time.Hour)
		time.Sleep(15 * time.Second)
		stop()
		time.Sleep(time.Hour)
		if signs != 2 {
			t.Errorf("stopped after 15 s: got %d signs, want 2", signs)
		}
	})
}

func TestShutdownGraceIsBounded(t *testing.T) {
	for given, want := range map[time.Duration]time.Duration{
		0: defaultPodGrace, time.Second: time.Second,
		nodeconfig.MaxShutdownGrace: nodeconfig.MaxShutdownGrace, 24 * time.Hour: nodeconfig.MaxShutdownGrace,
	} {
		if got := graceOf(&nodeconfig.Config{K3s: nodeconfig.K3s{ShutdownGrace: nodeconfig.Duration(given)}}); got != want {
			t.Errorf("shutdown-grace %v: got %v, want %v", given, got, want)
		}
	}
}
