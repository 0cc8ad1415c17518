package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// prepareVolume opens a volume that needs neither network nor waiting: one on
// state or in memory. The others are the volume service's.
func prepareVolume(cfg *nodeconfig.Config) error {
	v := cfg.Volume
	st := node.VolumeStatus{On: v.Place()}
	var err error
	switch v.Place() {
	case nodeconfig.OnState:
		err = mountVolume(func() error {
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
		err = mountVolume(func() error {
			return unix.Mount("tmpfs", node.VolumeDir, "tmpfs", unix.MS_NOATIME, "mode=0755,size="+size)
		})
	default:
		st.Waiting = "the volume service has not started yet"
		return noteVolume(st)
	}
	st.Mounted = err == nil
	if err != nil {
		err = fmt.Errorf("opening the volume: %w", err)
		st.Waiting = err.Error()
	} else {
		err = placeWaiting(waitingFiles, node.VolumeDir)
	}
	return errors.Join(err, noteVolume(st))
}

// mountVolume mounts the volume and binds what lives on it.
func mountVolume(mount func() error) error {
	if err := os.MkdirAll(node.VolumeDir, 0o755); err != nil {
		return err
	}
	if !mounted(node.VolumeDir) {
		if err := mount(); err != nil {
			return err
		}
	}
	return bindWritable(node.Volume)
}

func noteVolume(v node.VolumeStatus) error {
	b, err := v.Encode()
	if err != nil {
		return err
	}
	return replaceFile(node.VolumeFile, b, 0o644)
}

func readVolume() (node.VolumeStatus, error) {
	b, err := os.ReadFile(node.VolumeFile)
	if err != nil {
		return node.VolumeStatus{}, err
	}
	return node.DecodeVolume(b)
}

// replaceFile writes a file below /run that others read meanwhile.
func replaceFile(name string, b []byte, mode os.FileMode) error {
	if err := os.WriteFile(name+".new", b, mode); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// readConfig returns the config this boot goes by.
func readConfig() (*nodeconfig.Config, error) {
	b, err := os.ReadFile(node.EffectiveFile)
	if err != nil {
		return nil, err
	}
	return nodeconfig.Parse(node.EffectiveFile, b)
}

// How long the start of the system waits for a volume, and how often it is
// tried. Then it goes on, and the daemon goes on trying: a NAS that is down
// keeps nobody from logging in to see why k3s is not there.
const (
	volumeWait  = 30 * time.Second
	volumeEvery = 3 * time.Second
)

// startVolume is the start of the volume service.
func startVolume(out io.Writer) error {
	for start := time.Now(); ; time.Sleep(volumeEvery) {
		v, err := tryVolume()
		if err != nil {
			return err
		}
		if v.Mounted && len(v.Sessions) == 0 {
			return nil
		}
		if time.Since(start) > volumeWait || v.Refused && len(v.Sessions) == 0 {
			for _, s := range v.Sessions {
				fmt.Fprintf(out, "pikelet: iSCSI: %s\n", s)
			}
			if !v.Mounted {
				fmt.Fprintf(out, "pikelet: THE VOLUME IS MISSING: %s\npikelet: k3s waits for it; trying again in the background\n", v.Waiting)
			}
			return nil
		}
	}
}

// tryVolume logs in to what the node is not logged in to yet and opens the
// volume, once, and notes how it went. Service and daemon take turns.
func tryVolume() (node.VolumeStatus, error) {
	unlock, err := lock("/run/pikelet/volume.lock")
	if err != nil {
		return node.VolumeStatus{}, err
	}
	defer unlock()
	cfg, err := readConfig()
	if err != nil {
		return node.VolumeStatus{}, err
	}
	v, err := readVolume()
	if err != nil {
		return v, err
	}
	v.On, v.Sessions = cfg.Volume.Place(), nil
	initiator, volumeTarget := openISCSI(), ""
	if t, err := cfg.VolumeTarget(); err == nil && v.On == nodeconfig.OnISCSI {
		volumeTarget = t.Name
	}
	for _, t := range cfg.ISCSI.Targets {
		if err := initiator.login(t); err != nil {
			v.Sessions = append(v.Sessions, err.Error())
			if t.Name == volumeTarget {
				v.Waiting = err.Error()
			}
		} else if t.Name == volumeTarget {
			v.Waiting = ""
		}
	}
	for _, d := range cfg.ISCSI.Discovery {
		if err := initiator.discover(d); err != nil {
			v.Sessions = append(v.Sessions, err.Error())
		}
	}
	if err := linkDisks(); err != nil {
		v.Sessions = append(v.Sessions, err.Error())
	}
	if !v.Mounted && (v.Waiting == "" || v.On == nodeconfig.OnDisk) {
		v.Waiting, v.Refused = "", false
		if err := openVolume(cfg, &v); err != nil {
			v.Waiting = err.Error()
		} else {
			v.Mounted = true
			if err := placeWaiting(waitingFiles, node.VolumeDir); err != nil {
				tell("PROBLEM: " + err.Error())
			}
		}
	}
	return v, noteVolume(v)
}

// openVolume finds the disk of the volume, formats it where that is allowed
// and it is blank, checks it and mounts it.
func openVolume(cfg *nodeconfig.Config, v *node.VolumeStatus) error {
	p, err := readPrepared()
	if err != nil {
		return err
	}
	label := node.VolumeLabel(p.Hostname)
	dev, err := volumeDevice(cfg)
	if err != nil {
		return err
	}
	v.Device = dev
	c, size, err := readDisk(dev)
	if err != nil {
		return err
	}
	was, err := readVolumeID(volumeIDFile)
	if err != nil {
		return err
	}
	elsewhere := ""
	if c.Blank && was.UUID != "" {
		elsewhere = diskWith(func(c content) bool { return c.Ext4 && c.UUID == was.UUID })
	}
	id := fmt.Sprintf("%s, %d bytes\n", volumePlace(cfg), size)
	format := cfg.Volume.Format == nodeconfig.FormatBlank && formatting(id) && !(c.Ext4 && c.Label == label)
	if !format {
		if err := was.missing(volumePlace(cfg), c, dev, elsewhere); err != nil {
			v.Refused = true
			return err
		}
		if format, err = c.mayUse(dev, label, cfg.Volume.Format == nodeconfig.FormatBlank); err != nil {
			v.Refused = true
			return err
		}
	}
	if format {
		if err := formatVolume(dev, id); err != nil {
			return err
		}
		v.Made = true
	} else if v.Repaired, err = fsck(dev); err != nil {
		return err
	}
	if err := mountDisk(dev, label, format); err != nil {
		return err
	}
	if c, err = contentOf(dev); err != nil {
		return err
	}
	if !format {
		v.Another = was.another(volumePlace(cfg), c.UUID)
	}
	return errors.Join(volumeID{volumePlace(cfg), c.UUID}.remember(volumeIDFile), forget(formattingFile))
}

// readDisk returns what lies on a disk, and how many bytes it has.
func readDisk(dev string) (content, int64, error) {
	f, err := os.Open(dev)
	if err != nil {
		return content{}, 0, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return content{}, 0, err
	}
	if size == 0 {
		return content{}, 0, fmt.Errorf("%s has no size yet", dev)
	}
	c, err := identify(f, size)
	if err != nil {
		return content{}, 0, fmt.Errorf("reading %s: %w", dev, err)
	}
	return c, size, nil
}

// formatVolume makes the filesystem of a volume. The label comes last, when all
// the rest is on the disk: a power cut before that leaves what is made again,
// one after it never.
func formatVolume(dev, id string) error {
	if err := keep(formattingFile, []byte(id)); err != nil {
		return err
	}
	if err := mkfs(dev, makingLabel, "-O", "mmp"); err != nil {
		return err
	}
	return flushDevice(dev)
}

func mountDisk(dev, label string, formatted bool) error {
	return mountVolume(func() error {
		if err := unix.Mount(dev, node.VolumeDir, "ext4", unix.MS_NOATIME, ext4Options); err != nil {
			return fmt.Errorf("mounting %s: %w", dev, err)
		}
		if !formatted {
			return nil
		}
		if err := labelExt4(node.VolumeDir, label); err != nil {
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

// volumeDevice returns the device the volume is on.
func volumeDevice(cfg *nodeconfig.Config) (string, error) {
	if cfg.Volume.Place() == nodeconfig.OnDisk {
		dev, err := namedDisk(cfg.Volume.Device, diskWith)
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(dev); err != nil {
			return "", fmt.Errorf("there is no disk %s; there are %s", dev, strings.Join(diskNames(), ", "))
		}
		if b, err := readBoot(); err == nil && strings.HasPrefix(dev, b.Disk) {
			return "", fmt.Errorf("%s is on the disk this node was started from; say volume: {on: state}", dev)
		}
		return dev, nil
	}
	t, err := cfg.VolumeTarget()
	if err != nil {
		return "", err
	}
	for _, l := range luns() {
		if l.target == t.Name && l.number == fmt.Sprint(cfg.Volume.LUN) {
			return "/dev/" + l.device, nil
		}
	}
	return "", fmt.Errorf("target %s has no LUN %d, or does not show it to this node; is the node's IQN allowed there?", t.Name, cfg.Volume.LUN)
}

func diskNames() []string {
	all, _ := filepath.Glob("/sys/class/block/*")
	var list []string
	for _, n := range all {
		name := filepath.Base(n)
		if !strings.HasPrefix(name, "loop") && !strings.HasPrefix(name, "ram") && !strings.HasPrefix(name, "dm-") {
			list = append(list, "/dev/"+name)
		}
	}
	return list
}

// lock takes a lock that processes of this node share.
func lock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
