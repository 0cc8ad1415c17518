// Package runfiles reads and writes the files below /run/pikelet in which the
// programs of one boot tell each other how it went.
package runfiles

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// Boot returns what /init found out about this boot.
func Boot() (node.Boot, error) {
	b, err := os.ReadFile(node.BootFile)
	if err != nil {
		return node.Boot{}, err
	}
	return node.DecodeBoot(b)
}

// Prepared returns what pikeletd prepare found out on this boot. The error is
// fs.ErrNotExist where it did not run.
func Prepared() (node.Prepared, error) {
	b, err := os.ReadFile(node.PreparedFile)
	if err != nil {
		return node.Prepared{}, err
	}
	return node.DecodePrepared(b)
}

// RootConsole reports whether the image gives a root shell to whoever reaches the
// console: images for trying things do.
func RootConsole() bool {
	_, err := os.Stat(node.RootConsoleFile)
	return err == nil
}

// Defaults returns the defaults that the spec of the image sets.
func Defaults() (node.Defaults, error) {
	b, err := os.ReadFile(node.DefaultsFile)
	if err != nil {
		return node.Defaults{}, err
	}
	return node.DecodeDefaults(b)
}

// SetVolume notes how the volume is, for Volume.
func SetVolume(v node.VolumeStatus) error {
	b, err := v.Encode()
	if err != nil {
		return err
	}
	return Replace(node.VolumeFile, b, 0o644)
}

// Volume returns how the volume was when the service or the daemon last tried it.
func Volume() (node.VolumeStatus, error) {
	b, err := os.ReadFile(node.VolumeFile)
	if err != nil {
		return node.VolumeStatus{}, err
	}
	return node.DecodeVolume(b)
}

// SetLabels notes how labels and taints fared, for Labels.
func SetLabels(l node.LabelStatus) error {
	b, err := l.Encode()
	if err != nil {
		return err
	}
	return Replace(node.LabelsFile, b, 0o644)
}

// Labels returns how labels and taints of the node config fared when the daemon
// last set them.
func Labels() (node.LabelStatus, error) {
	b, err := os.ReadFile(node.LabelsFile)
	if err != nil {
		return node.LabelStatus{}, err
	}
	return node.DecodeLabels(b)
}

// Replace writes a file below /run that other processes may read meanwhile: they
// see the old contents or the new ones.
func Replace(name string, b []byte, mode os.FileMode) error {
	if err := os.WriteFile(name+".new", b, mode); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// Config returns the node config of this boot.
func Config() (*nodeconfig.Config, error) {
	b, err := os.ReadFile(node.EffectiveFile)
	if err != nil {
		return nil, err
	}
	return nodeconfig.Parse(node.EffectiveFile, b)
}

// Lock waits for the lock file name and takes it. The processes of this node share
// it; unlock, or the end of the process, releases it.
func Lock(name string) (unlock func(), err error) {
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
