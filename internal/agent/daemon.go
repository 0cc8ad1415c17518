package agent

import (
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// clockEvery is how often the time is written down: a node whose power is cut
// wakes up that much in the past at most, until NTP answers.
const clockEvery = time.Hour

// daemon watches over the node until it is told to stop.
func daemon() error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	clock := time.NewTicker(clockEvery)
	defer clock.Stop()
	for {
		select {
		case <-stop:
			return saveClock()
		case <-clock.C:
			if err := saveClock(); err != nil {
				return err
			}
		}
	}
}
