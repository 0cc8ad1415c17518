// Package ext4 makes, checks, grows and labels ext4 filesystems.
package ext4

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/agent/command"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// MountOptions are how filesystems of ours are mounted. Times of reading are
// not written down; what programs do not flush reaches the card after half a
// minute; tables of inodes that were never used are not written in the
// background (the kernel knows which they are).
const MountOptions = "commit=30,noinit_itable"

// ResetHint is the advice about a filesystem that cannot be used any more.
const ResetHint = "pikeletd reset makes it anew, and what is on it is lost"

// Make makes an ext4. The tables of inodes are left to be written when they
// are used, which on a large card are a gigabyte and minutes.
func Make(dev, label string, options ...string) error {
	args := append([]string{"-q", "-F", "-L", label, "-m", "1", "-E", "lazy_itable_init=1"}, options...)
	f, err := os.Open(dev)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	f.Close()
	if err != nil {
		return err
	}
	if size >= 2<<30 {
		// mkfs would make it up to 1 GiB, and zero it; 64 MiB hold all that a
		// card can write in its half minute.
		args = append(args, "-J", "size=64")
	}
	_, err = command.Run("mkfs.ext4", append(args, dev)...)
	return err
}

// Check checks an ext4 before it is mounted, and says what it mended. It mends
// only what needs no decision.
func Check(dev string) (string, error) {
	out, err := command.Run("e2fsck", "-p", dev)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "", nil
	case errors.As(err, &exit) && exit.ExitCode() == 1: // errors corrected
		return strings.TrimSpace(out), nil
	case errors.As(err, &exit) && exit.ExitCode() < 8: // errors left
		return "", hint.With(fmt.Errorf("the filesystem on %s is damaged, and mending it needs a decision; it is left as it is: e2fsck: %s",
			dev, command.OneLine(out)), ResetHint)
	case errors.As(err, &exit): // it could not even be read
		return "", hint.With(fmt.Errorf("%s holds no filesystem that can be read; it was made once, so it is left as it is: e2fsck: %s",
			dev, command.OneLine(out)), ResetHint)
	}
	return "", err
}
