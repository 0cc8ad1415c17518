package volume

import (
	"io"
	"os"

	"github.com/pikelet-os/pikelet/internal/device/agent/command"
	"github.com/pikelet-os/pikelet/internal/device/agent/iscsi"
	"github.com/pikelet-os/pikelet/internal/device/agent/luks"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// Wipe closes the volume and makes its disk blank.
func Wipe(cfg *nodeconfig.Config) error {
	dev, err := device(cfg)
	if err != nil {
		return err
	}
	for _, service := range []string{"pikelet-k3s", "pikeletd", "pikelet-volume"} {
		if _, err := os.Stat("/etc/init.d/" + service); err == nil {
			if _, err := command.Run("rc-service", "--ifstarted", service, "stop"); err != nil {
				return err
			}
		}
	}
	if cfg.Volume.Place() == nodeconfig.OnISCSI { // closing it logged out
		t, err := cfg.VolumeTarget()
		if err != nil {
			return err
		}
		if err := iscsi.Open().Login(t); err != nil {
			return err
		}
		if dev, err = device(cfg); err != nil {
			return err
		}
	}
	p, err := runfiles.Prepared()
	if err != nil {
		return err
	}
	c, _, err := readDisk(dev)
	if err != nil {
		return err
	}
	if err := c.mayWipe(dev, node.VolumeLabel(p.Hostname)); err != nil {
		return err
	}
	if err := luks.Cryptsetup().Close(); err != nil {
		return err
	}
	if err := blank(dev); err != nil {
		return err
	}
	return iscsi.Logout(cfg)
}

// blank overwrites both ends of a disk with zeros. The keys of an encrypted one
// lie there (luks.HeaderSize): without them the rest can't be read.
func blank(dev string) error {
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	zeros := make([]byte, 1<<20)
	for _, from := range []int64{0, max(0, size-blankEnds)} {
		for at := from; at < min(size, from+blankEnds); at += int64(len(zeros)) {
			if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at); err != nil {
				return err
			}
		}
	}
	return f.Sync()
}
