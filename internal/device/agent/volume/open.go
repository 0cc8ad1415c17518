package volume

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/advice"
	"github.com/pikelet-os/pikelet/internal/device/agent/ext4"
	"github.com/pikelet-os/pikelet/internal/device/agent/luks"
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
func open(cfg *nodeconfig.Config, v *node.VolumeStatus, typed *passphrase) error {
	p, err := runfiles.Prepared()
	if err != nil {
		return err
	}
	label := node.VolumeLabel(p.Hostname)
	dev, err := device(cfg)
	if err != nil {
		return err
	}
	v.Device, v.Encrypted = dev, cfg.Volume.Encryption != nil
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
		elsewhere = diskWith(func(c content) bool { return c.UUID == was.UUID })
	}
	id := fmt.Sprintf("%s, %d bytes\n", place(cfg), size)
	format := c.halfMade(formatting(id), label, cfg.Volume.Format == nodeconfig.FormatBlank)
	if !format {
		if err := was.missing(place(cfg), c, dev, elsewhere); err != nil {
			v.Refused = true
			return err
		}
		if format, err = c.mayUse(dev, label, cfg.Volume.Format == nodeconfig.FormatBlank, v.Encrypted); err != nil {
			v.Refused = true
			return err
		}
	}
	begin := func() error {
		if err := statefile.Write(formattingFile, []byte(id)); err != nil || c.Blank {
			return err
		}
		return blank(dev) // a power cut left it half made
	}
	if err := use(candidate{dev, size, c, label, cfg.Generation, begin}, format, cfg.Volume.Encryption, typed, v); err != nil {
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

// candidate is the disk that is to be the volume.
type candidate struct {
	device     string
	size       int64 // bytes
	content    content
	label      string // that its volume has
	generation int    // of this board
	// begin notes that it is being formatted, before anything is written there.
	begin func() error
}

// use formats the disk, if format says so, or checks it, and mounts it.
func use(d candidate, format bool, e *nodeconfig.Encryption, typed *passphrase, v *node.VolumeStatus) (err error) {
	on, made := d.device, func() error { return nil }
	if e != nil {
		l := luks.Cryptsetup()
		if err := unlock(l, d, format, e, typed); err != nil {
			v.Refused = waitingIsNoUse(err)
			return err
		}
		defer func() {
			if err != nil && !mounts.Mounted(node.VolumeDir) {
				err = errors.Join(err, l.Close())
			}
		}()
		on, made = luks.Mapping, func() error { return l.SetLabel(d.device, d.label) }
	}
	if format {
		if e == nil {
			err = d.begin()
		}
		if err == nil {
			err = makeFilesystem(on)
		}
		if err != nil {
			return err
		}
		v.Made = true
	} else if v.Repaired, err = ext4.Check(on); err != nil {
		return err
	} else if err = mayOpen(on, d.generation); err != nil {
		v.Refused = errors.Is(err, errReplaced)
		return err
	}
	return mountDisk(on, d.label, format, made)
}
