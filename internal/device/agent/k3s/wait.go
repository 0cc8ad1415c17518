package k3s

import (
	"fmt"
	"io"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/clock"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
)

// defaultTimeWait is how long k3s waits for the right time: certificates that
// are not valid yet keep a cluster from starting, and so does a time server
// that cannot be reached.
const defaultTimeWait = 120 * time.Second

// waitVolume waits for the volume, however long it takes: k3s on the memory
// beneath would begin a new cluster.
func waitVolume(out io.Writer) error {
	printed := ""
	for {
		v, err := runfiles.Volume()
		if err != nil {
			return err
		}
		if v.Mounted {
			return nil
		}
		if v.Waiting != printed {
			printed = v.Waiting
			fmt.Fprintf(out, "pikelet: k3s waits for the volume: %s\n", printed)
		}
		time.Sleep(time.Second)
	}
}

// waitTime waits until a time server set the clock.
func waitTime(limit time.Duration) (waited time.Duration, ok bool) {
	start := time.Now()
	for {
		if clock.Synchronised() {
			return time.Since(start), true
		}
		if time.Since(start) >= limit {
			return time.Since(start), false
		}
		time.Sleep(time.Second)
	}
}
