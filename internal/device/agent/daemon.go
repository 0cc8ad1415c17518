package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/console"
	"github.com/pikelet-os/pikelet/internal/device/agent/iscsi"
	"github.com/pikelet-os/pikelet/internal/device/agent/nodelabels"
	"github.com/pikelet-os/pikelet/internal/device/agent/prepare"
	"github.com/pikelet-os/pikelet/internal/device/agent/requests"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/agent/upgrade"
	"github.com/pikelet-os/pikelet/internal/device/agent/volume"
)

// How often the daemon acts: the time is saved so that a node whose power is cut
// wakes up that much in the past at most, until NTP answers; a volume that is
// missing is tried again.
const (
	clockEvery = time.Hour
	retryEvery = 10 * time.Second
	endOfTrial = 10 * time.Second // for a round of checks and one record
)

// garbage is how much garbage the daemon keeps at most, in percent of what is in use:
// it does little, and what it takes of a node's memory is not there for pods.
const garbage = 25

// daemon watches over the node until ctx ends. Its own problems go to stderr, what
// concerns upgrades and the volume to log.
func daemon(ctx context.Context, log *slog.Logger, stderr io.Writer) error {
	debug.SetGCPercent(garbage)
	problems := slog.New(console.NewHandler(stderr, "pikeletd"))
	// First: what keeps the daemon from its other work may be the config that is tried.
	go func() {
		for {
			err := prepare.WatchTrial(ctx, log)
			if err == nil {
				return
			}
			problems.Error("watching over the node", "doing", "trying a config", "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryEvery):
			}
		}
	}()
	disks, err := watchDisks()
	if err != nil {
		return err
	}
	if err := joinCluster(ctx, log); err != nil {
		problems.Error("watching over the node", "doing", "joining the cluster", "err", err)
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
		doing := ""
		select {
		case <-ctx.Done():
			if concluded != nil {
				// A trial that is under way records that it did not end.
				select {
				case <-concluded:
				case <-time.After(endOfTrial):
				}
			}
			return prepare.SaveClock()
		case err = <-concluded:
			concluded = nil
			// The failure of the last upgrade does not keep the node from the next one.
			doing, err = "concluding the last upgrade", errors.Join(err, upgrade.Watch(ctx, log))
		case <-clock.C:
			doing, err = "saving the time", prepare.SaveClock()
		case <-disks:
			doing, err = "linking iSCSI disks", iscsi.LinkDisks()
		case <-retry.C:
			doing, err = "opening the volume", volume.Retry(log)
		}
		if err != nil {
			problems.Error("watching over the node", "doing", doing, "err", err)
		}
	}
}

// joinCluster starts to keep labels and taints of a node that has a part in a
// cluster, and to answer what rollouts ask it for.
func joinCluster(ctx context.Context, log *slog.Logger) error {
	cfg, err := runfiles.Config()
	if err != nil || cfg.K3s.Role == "" {
		return err
	}
	p, err := runfiles.Prepared()
	if err != nil {
		return err
	}
	go nodelabels.New(p.Hostname, cfg.K3s, runfiles.SetLabels, log).Run(ctx)
	go requests.New(p.Hostname, cfg.K3s.Role == "server", upgrade.Requested{Log: log}, log).Run(ctx)
	return nil
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
