package volume

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/ext4"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// makeFilesystem makes the filesystem of a volume. The label comes last, when all
// the rest is on the disk: a power cut before that leaves what is made again,
// one after it never.
func makeFilesystem(on string) error {
	if err := ext4.Make(on, makingLabel, "-O", "mmp"); err != nil {
		return err
	}
	return flushDevice(on)
}

// mountDisk mounts the filesystem, and labels one that was just made; last, by
// made, what is around it.
func mountDisk(dev, label string, formatted bool, made func() error) error {
	return mount(func() error {
		if err := unix.Mount(dev, node.VolumeDir, "ext4", unix.MS_NOATIME, ext4.MountOptions); err != nil {
			return fmt.Errorf("mounting %s: %w", dev, err)
		}
		if !formatted {
			return nil
		}
		err := ext4.SetLabel(node.VolumeDir, label)
		if err == nil {
			err = made()
		}
		if err != nil {
			return errors.Join(err, unix.Unmount(node.VolumeDir, 0))
		}
		return nil
	})
}

// formattingFile says which disk is being formatted: after a power cut it is
// blank no more, and may be formatted all the same, as long as it does not
// have this node's label.
const formattingFile = node.StateDir + "/node/formatting"

// makingLabel is the label of a filesystem that is being made.
const makingLabel = "pikelet-making"

func formatting(id string) bool {
	b, err := os.ReadFile(formattingFile)
	return err == nil && string(b) == id
}

func flushDevice(dev string) error {
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
