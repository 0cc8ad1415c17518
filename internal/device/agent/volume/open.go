package volume

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/advice"
	"github.com/pikelet-os/pikelet/internal/device/agent/ext4"
	"github.com/pikelet-os/pikelet/internal/device/agent/mounts"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/agent/statefile"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// Prepare opens a volume that needs neither network nor waiting: one on
// state or in memory. The others are the volume service's.
func Prepare(cfg *nodeconfig.Config) error {
	v := cfg.Volume
	st := node.VolumeStatus{On: v.Place()}
	var err error
	switch v.Place() {
	case nodeconfig.OnState:
		err = mount(func() error {
			from := node.StateDir + "/volume"
			if err := os.MkdirAll(from, 0o755); err != nil {
				return err
			}
			return unix.Mount(from, node.VolumeDir, "", unix.MS_BIND, "")
		})
	case nodeconfig.OnMemory:
		size := "50%"
		if v.Size != "" {
			size = strings.ToLower(v.Size[:len(v.Size)-2]) // tmpfs says m and g, and means MiB and GiB
		}
		err = mount(func() error {
			return unix.Mount("tmpfs", node.VolumeDir, "tmpfs", unix.MS_NOATIME, "mode=0755,size="+size)
		})
	default:
		st.Waiting = "the volume service has not started yet"
		return runfiles.SetVolume(st)
	}
	st.Mounted = err == nil
	if err != nil {
		err = fmt.Errorf("opening the volume: %w", err)
		st.Waiting = advice.Text(err)
	} else {
		err = placeWaiting(WaitingFile, node.VolumeDir)
	}
	return errors.Join(err, runfiles.SetVolume(st))
}

// mount mounts the volume and binds what lives on it.
func mount(mount func() error) error {
	if err := os.MkdirAll(node.VolumeDir, 0o755); err != nil {
		return err
	}
	if !mounts.Mounted(node.VolumeDir) {
		if err := mount(); err != nil {
			return err
		}
	}
	return mounts.BindWritable(node.Volume)
}

// open finds the disk of the volume, formats it where that is allowed
// and it is blank, checks it and mounts it.
func open(cfg *nodeconfig.Config, v *node.VolumeStatus) error {
	p, err := runfiles.Prepared()
	if err != nil {
		return err
	}
	label := node.VolumeLabel(p.Hostname)
	dev, err := device(cfg)
	if err != nil {
		return err
	}
	v.Device = dev
	c, size, err := readDisk(dev)
	if err != nil {
		return err
	}
	was, err := readID(idFile)
	if err != nil {
		return err
	}
	elsewhere := ""
	if c.Blank && was.UUID != "" {
		elsewhere = diskWith(func(c content) bool { return c.Ext4 && c.UUID == was.UUID })
	}
	id := fmt.Sprintf("%s, %d bytes\n", place(cfg), size)
	format := cfg.Volume.Format == nodeconfig.FormatBlank && formatting(id) && !(c.Ext4 && c.Label == label)
	if !format {
		if err := was.missing(place(cfg), c, dev, elsewhere); err != nil {
			v.Refused = true
			return err
		}
		if format, err = c.mayUse(dev, label, cfg.Volume.Format == nodeconfig.FormatBlank); err != nil {
			v.Refused = true
			return err
		}
	}
	if format {
		if err := makeFilesystem(dev, id); err != nil {
			return err
		}
		v.Made = true
	} else if v.Repaired, err = ext4.Check(dev); err != nil {
		return err
	}
	if !format {
		switch err := mayOpen(dev, cfg.Generation); {
		case errors.Is(err, errReplaced):
			v.Refused = true
			return err
		case err != nil:
			return err
		}
	}
	if err := mountDisk(dev, label, format); err != nil {
		return err
	}
	if err := mark(node.VolumeDir, cfg.Generation); err != nil {
		return err
	}
	if c, err = contentOf(dev); err != nil {
		return err
	}
	if !format {
		v.Another = was.another(place(cfg), c.UUID)
	}
	return errors.Join(identity{place(cfg), c.UUID}.remember(idFile), statefile.Remove(formattingFile))
}
