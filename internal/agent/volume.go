package agent

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/node"
	"github.com/pikelet-os/pikelet/internal/node/config"
)

// prepareVolume opens a volume that needs neither network nor waiting: one on
// state or in memory. The others are the volume service's.
func prepareVolume(cfg *config.Config) error {
	v := cfg.Volume
	var err error
	switch v.Place() {
	case config.OnState:
		err = mountVolume(func() error {
			from := node.StateDir + "/volume"
			if err := os.MkdirAll(from, 0o755); err != nil {
				return err
			}
			return unix.Mount(from, node.VolumeDir, "", unix.MS_BIND, "")
		})
	case config.OnMemory:
		size := "50%"
		if v.Size != "" {
			size = strings.ToLower(v.Size[:len(v.Size)-2]) // tmpfs says M and G, and means MiB and GiB
		}
		err = mountVolume(func() error {
			return unix.Mount("tmpfs", node.VolumeDir, "tmpfs", unix.MS_NOATIME, "mode=0755,size="+size)
		})
	default:
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening the volume: %w", err)
	}
	return nil
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
