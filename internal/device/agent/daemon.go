package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/iscsi"
	"github.com/pikelet-os/pikelet/internal/device/agent/prepare"
	"github.com/pikelet-os/pikelet/internal/device/agent/upgrade"
	"github.com/pikelet-os/pikelet/internal/device/agent/volume"
)

// How often the daemon looks: the time is written down so that a node whose
// power is cut wakes up that much in the past at most, until NTP answers; a
// volume that is missing is tried again.
const (
	clockEvery = time.Hour
	retryEvery = 10 * time.Second
	endOfTrial = 10 * time.Second // for a round of checks and one record
)

// daemon watches over the node until ctx ends. What it does when nothing happens
// is next to nothing.
func daemon(ctx context.Context, log *slog.Logger, stderr io.Writer) error {
	disks, err := watchDisks()
	if err != nil {
		return err
	}
	concluded := make(chan error, 1)
	go func() { concluded <- upgrade.Conclude(ctx, log) }()
	clock := time.NewTicker(clockEvery)
	defer clock.Stop()
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	if err := iscsi.LinkDisks(); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			if concluded != nil {
				// A trial that is under way writes down that it was not seen through.
				select {
				case <-concluded:
				case <-time.After(endOfTrial):
				}
			}
			return prepare.SaveClock()
		case err = <-concluded:
			concluded = nil
			// What became of the last upgrade keeps nobody from the next one.
			err = errors.Join(err, upgrade.Watch(ctx, log))
		case <-clock.C:
			err = prepare.SaveClock()
		case <-disks:
			err = iscsi.LinkDisks()
		case <-retry.C:
			err = volume.Retry(log)
		}
		if err != nil {
			fmt.Fprintln(stderr, "pikeletd:", err)
		}
	}
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
