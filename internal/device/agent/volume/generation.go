package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/atomicfile"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// generationFile is where a volume keeps the generation of the last board that had
// it, in decimal digits.
const generationFile = "pikelet/generation"

// lookDir is where a disk is mounted to be looked at.
const lookDir = "/run/pikelet/volume"

// errReplaced is returned where a later board of the node has the volume.
var errReplaced = errors.New("another board took this node over")

// mayOpen reports why a board of some generation may not open the volume on a disk,
// whose filesystem was checked: nothing is written to it.
func mayOpen(dev string, generation int) (err error) {
	if err := os.MkdirAll(lookDir, 0o700); err != nil {
		return err
	}
	// Without its journal: the check has replayed it, or another node has the disk.
	if err := unix.Mount(dev, lookDir, "ext4", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "noload"); err != nil {
		return fmt.Errorf("looking at %s: %w", dev, err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(lookDir, 0)) }()
	return allows(lookDir, generation)
}

// allows reports why a volume is not for a board of some generation.
func allows(dir string, generation int) error {
	has, err := readGeneration(dir)
	if err != nil {
		return err
	}
	if has > generation {
		return hint.With(fmt.Errorf("%w: its volume is that of generation %d, and this board is of generation %d", errReplaced, has, generation),
			"this board needs the config of another node; or pikelet node replace makes it this node again")
	}
	return nil
}

// readGeneration returns the generation on a volume, 0 for none.
func readGeneration(dir string) (int, error) {
	b, err := os.ReadFile(filepath.Join(dir, generationFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n < 0 {
		return 0, fmt.Errorf("reading the generation on the volume: got %q, want a number", b)
	}
	return n, nil
}

// mark notes that a board of some generation has the volume. Boards of lower ones
// are refused from then on, also after a power cut.
func mark(dir string, generation int) error {
	has, err := readGeneration(dir)
	if err != nil || has >= generation {
		return err
	}
	name := filepath.Join(dir, generationFile)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	if err := atomicfile.Write(name, []byte(strconv.Itoa(generation)+"\n"), 0o600); err != nil {
		return fmt.Errorf("marking the volume: %w", err)
	}
	return atomicfile.Sync(dir)
}
