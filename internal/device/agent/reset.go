package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// reset starts over on purpose: it forgets config and identity, and with
// volume the cluster's data too, and reboots. Without yes it says what would
// be lost.
func reset(out io.Writer, volume, yes bool) error {
	b, err := readBoot()
	if err != nil {
		return err
	}
	p, err := readPrepared()
	if err != nil {
		return err
	}
	cfg, err := readConfig()
	if err != nil {
		return err
	}
	onState := cfg.Volume.Place() == nodeconfig.OnState
	if p.State.Memory != "" && !volume && onState {
		return errors.New("state can't be read, so nothing on it can be kept: pikeletd reset --volume makes it anew, and what k3s and pods kept there is lost")
	}
	what := "the node config, the seed and the clock"
	if volume {
		what += fmt.Sprintf(", and the volume on %s with all that k3s and pods kept", cfg.Volume.Place())
	}
	if !yes {
		return fmt.Errorf("this forgets %s, and reboots. The node comes up as its image makes it: who may log in is what the image says. Say --yes to do it", what)
	}
	fmt.Fprintf(out, "forgetting %s\n", what)
	if volume && !onState && cfg.Volume.Place() != nodeconfig.OnMemory {
		if err := wipeVolume(cfg); err != nil {
			return fmt.Errorf("wiping the volume: %w", err)
		}
	}
	if volume && onState || p.State.Memory != "" {
		c, err := openCard(b.Disk)
		if err != nil {
			return err
		}
		defer c.f.Close()
		// The next boot makes what is still being made.
		if err := noteState(c, slots.StateMaking); err != nil {
			return err
		}
	} else {
		for _, name := range []string{"node", "paths"} {
			if err := os.RemoveAll(filepath.Join(node.StateDir, name)); err != nil && name == "node" {
				return err
			}
		}
	}
	if err := os.WriteFile(forgottenFile, nil, 0o600); err != nil {
		return err
	}
	return askReboot("")
}

// forgottenFile keeps the daemon from writing anything down while a node that
// was reset goes down.
const forgottenFile = "/run/pikelet/forgotten"

// wipeVolume closes the volume and makes its disk blank.
func wipeVolume(cfg *nodeconfig.Config) error {
	dev, err := volumeDevice(cfg)
	if err != nil {
		return err
	}
	for _, service := range []string{"pikelet-k3s", "pikeletd", "pikelet-volume"} {
		if _, err := os.Stat("/etc/init.d/" + service); err == nil {
			if _, err := run("rc-service", "--ifstarted", service, "stop"); err != nil {
				return err
			}
		}
	}
	if cfg.Volume.Place() == nodeconfig.OnISCSI { // closing it logged out
		t, err := cfg.VolumeTarget()
		if err != nil {
			return err
		}
		if err := openISCSI().login(t); err != nil {
			return err
		}
		if dev, err = volumeDevice(cfg); err != nil {
			return err
		}
	}
	p, err := readPrepared()
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
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	blank := make([]byte, 1<<20)
	for _, from := range []int64{0, max(0, size-blankEnds)} {
		for at := from; at < min(size, from+blankEnds); at += int64(len(blank)) {
			if _, err := f.WriteAt(blank[:min(int64(len(blank)), size-at)], at); err != nil {
				return err
			}
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return logoutOurs()
}
