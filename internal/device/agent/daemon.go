package agent

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// How often the daemon looks: the time is written down so that a node whose
// power is cut wakes up that much in the past at most, until NTP answers; a
// volume that is missing is tried again.
const (
	clockEvery = time.Hour
	retryEvery = 10 * time.Second
	endOfTrial = 10 * time.Second // for a round of checks and one record
)

// daemon watches over the node until it is told to stop. What it does when
// nothing happens is next to nothing.
func daemon() error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	disks, err := watchDisks()
	if err != nil {
		return err
	}
	concluded := make(chan error, 1)
	ctx, end := context.WithCancel(context.Background())
	defer end()
	go func() { concluded <- concludeUpgrade(ctx) }()
	clock := time.NewTicker(clockEvery)
	defer clock.Stop()
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	if err := linkDisks(); err != nil {
		return err
	}
	for {
		select {
		case <-stop:
			end()
			if concluded != nil {
				// A trial that is under way writes down that it was not seen through.
				select {
				case <-concluded:
				case <-time.After(endOfTrial):
				}
			}
			return saveClock()
		case err = <-concluded:
			concluded = nil
			// What became of the last upgrade keeps nobody from the next one.
			err = errors.Join(err, watchReleases(ctx))
		case <-clock.C:
			err = saveClock()
		case <-disks:
			err = linkDisks()
		case <-retry.C:
			err = retryVolume()
		}
		if err != nil {
			os.Stderr.WriteString("pikeletd: " + err.Error() + "\n")
		}
	}
}

// watchReleases begins to look for new releases: on a channel, where the node
// is told to; without a card, at the boot server.
func watchReleases(ctx context.Context) error {
	b, err := readBoot()
	if err != nil {
		return err
	}
	cfg, err := readConfig()
	if err != nil {
		return err
	}
	d, err := readDefaults()
	if err != nil {
		return err
	}
	if b.Slot == slots.Net {
		s, err := newServed(b, cfg, d)
		if err == nil {
			go s.run(ctx)
		}
		return err
	}
	p, err := newPoller(b, cfg, d)
	if p != nil && err == nil {
		go p.run(ctx)
	}
	return err
}

// retryVolume tries again what the volume service could not do; where all is
// done, it sees to the sessions' records.
func retryVolume() error {
	v, err := readVolume()
	if err != nil || v.Waiting == stopped {
		return err
	}
	if v.Mounted && len(v.Sessions) == 0 {
		return keepSessions()
	}
	_, err = tryVolume()
	return err
}

// watchDisks sends whenever disks come or go, by the kernel's own messages.
func watchDisks() (<-chan struct{}, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	changed := make(chan struct{}, 1)
	go func() {
		buf := make([]byte, 16<<10)
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			// Too many at once is a change too: the kernel dropped some.
			if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
				return
			}
			if err != nil || bytes.Contains(buf[:n], []byte("SUBSYSTEM=block\x00")) {
				select {
				case changed <- struct{}{}:
				default:
				}
			}
		}
	}()
	return changed, nil
}
