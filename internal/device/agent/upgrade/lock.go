package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/clock"
	"github.com/pikelet-os/pikelet/internal/device/agent/command"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// upgradeLock is held by the pikeletd that changes the other slot. It says who
// that is.
const upgradeLock = "/run/pikelet/upgrade.lock"

// How long a verb waits for the upgrade lock, and how often it tries.
const (
	lockPatience = 2 * time.Minute
	lockEvery    = 200 * time.Millisecond
)

// errUpgrading means that another pikeletd holds the upgrade lock.
var errUpgrading = errors.New("another upgrade is under way on this node")

// holder is who wants the upgrade lock.
type holder struct {
	task     string        // what it does, for those who want the lock meanwhile
	patience time.Duration // how long it waits
	out      io.Writer     // is where it prints that it waits, and for whom
	log      *slog.Logger  // of the upgrade
}

// lock takes the upgrade lock. Where another process has it, that is printed at
// once, and after h.patience the error is errUpgrading.
func (h holder) lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for start, printed := time.Now(), false; ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("locking %q: %w", name, err)
		}
		if time.Since(start) >= h.patience {
			f.Close()
			return nil, hint.With(fmt.Errorf("%w: %s", errUpgrading, heldBy(name)), "pikeletd status shows how far it is")
		}
		if !printed {
			printed = true
			fmt.Fprintf(h.out, "%v: %s; waiting for it, at most %v\n", errUpgrading, heldBy(name), h.patience)
		}
		if !clock.Sleep(ctx, lockEvery) {
			f.Close()
			return nil, ctx.Err()
		}
	}
	text := fmt.Sprintf("process %d, %s, since %s", os.Getpid(), h.task, time.Now().UTC().Format(time.RFC3339))
	if err := errors.Join(f.Truncate(0), writeAt(f, text)); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %q: %w", name, err)
	}
	return func() { f.Close() }, nil
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// heldBy returns what the holder of a lock says of itself.
func heldBy(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return "an unknown process"
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, 1000))
	if text := strings.TrimSpace(string(b)); text != "" {
		return command.OneLine(text)
	}
	return "an unknown process"
}
