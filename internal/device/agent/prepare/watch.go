package prepare

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/card"
	"github.com/pikelet-os/pikelet/internal/device/agent/machine"
	"github.com/pikelet-os/pikelet/internal/device/agent/motd"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/agent/shutdown"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// TrySent is the verb config try: the config on in is tried on the next boot, which
// begins now. The node goes back to the config before unless the trial is confirmed
// within wait from when it is up.
func TrySent(in io.Reader, out io.Writer, wait time.Duration) error {
	b, err := runfiles.Boot()
	if err != nil {
		return err
	}
	p, err := runfiles.Prepared()
	if err != nil {
		return err
	}
	// A restart would end the trial of the image, and blame the image.
	if b.Kind == slots.Trial || card.LastUpdate(b.Disk).UnderWay() {
		return hint.With(errors.New("the node is in the middle of an upgrade"), "try again when it is over")
	}
	if err := sources(nil).trySent(in, machine.This(), p.State, wait); err != nil {
		return err
	}
	fmt.Fprintln(out, node.ConfigRestarting)
	return shutdown.Reboot("")
}

// Confirm is the verb config confirm: the node keeps the config that it tries.
func Confirm(digest string, out io.Writer) error {
	if err := sources(nil).confirm(digest); err != nil {
		return err
	}
	fmt.Fprintln(out, "confirmed; the node keeps this config")
	p, err := runfiles.Prepared()
	if err != nil || p.Config.Source != node.FromTrial {
		return err
	}
	p.Config.Source = node.FromState
	text, err := p.Encode()
	if err != nil {
		return err
	}
	b, err := runfiles.Boot()
	if err != nil {
		return err
	}
	return errors.Join(runfiles.Replace(node.PreparedFile, text, 0o600), motd.Write(b, p))
}

// Show is the verb config show: JSON of which config the node keeps, with digests
// by a key, hexadecimal digits, in the place of secrets.
func Show(key string, out io.Writer) error {
	raw, err := hex.DecodeString(key)
	if err != nil {
		return fmt.Errorf("reading the key: %w", err)
	}
	p, err := runfiles.Prepared()
	if err != nil {
		return err
	}
	r, err := sources(nil).report(p, raw)
	if err != nil {
		return err
	}
	b, err := r.Encode()
	if err != nil {
		return err
	}
	_, err = out.Write(append(b, '\n'))
	return err
}

// WatchTrial waits for the confirmation of the config that this boot tries, where it
// tries one, and restarts into the one before when its time is over.
func WatchTrial(ctx context.Context, log *slog.Logger) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	return sources(nil).watch(ctx, node.ConfigSinceFile, time.Duration(now.Nano()), log, func() error { return shutdown.Reboot("") })
}

// watch is WatchTrial at a time of the monotonic clock. since is the file that holds
// when this boot first waited: a daemon that crashes and is started again goes on.
func (p configs) watch(ctx context.Context, since string, now time.Duration, log *slog.Logger, restart func() error) error {
	t, err := p.readTrial()
	if err != nil || t.Step != node.TrialBegun {
		return err
	}
	begun := waitingSince(since, now)
	log.Warn("this boot tries a config, and goes back to the one before unless it is confirmed", "within", t.Time()-(now-begun))
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(t.Time() - (now - begun)):
	}
	again, err := p.expire(t.Digest)
	if !again {
		return err
	}
	log.Warn("the config was not confirmed: restarting into the one before")
	return errors.Join(err, restart())
}

// waitingSince returns the time in a file, and writes now there first where there is
// none.
func waitingSince(file string, now time.Duration) time.Duration {
	if b, err := os.ReadFile(file); err == nil {
		if s, err := strconv.ParseFloat(strings.TrimSpace(string(b)), 64); err == nil && s >= 0 && s <= now.Seconds() {
			return time.Duration(s * float64(time.Second))
		}
	}
	// Without the file a daemon that is started again waits anew.
	_ = os.WriteFile(file, []byte(fmt.Sprintf("%.3f\n", now.Seconds())), 0o600)
	return now
}
