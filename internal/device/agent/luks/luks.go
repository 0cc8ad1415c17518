// Package luks makes, opens and closes encrypted disks through cryptsetup.
package luks

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/agent/command"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// name is what the kernel calls the disk that is opened. A node has one.
const name = "pikelet-volume"

// Mapping is the opened disk: what is written there is encrypted.
const Mapping = "/dev/mapper/" + name

// HeaderSize is how much of a disk's beginning holds the header and the keys
// of those made here, bytes: cryptsetup's default, pinned because wiping a
// volume relies on it.
const HeaderSize = 16 * disk.MiB

// ErrKey says that a key or passphrase does not open the disk.
var ErrKey = errors.New("the key does not open it")

// ErrMissing says that the image has no cryptsetup.
var ErrMissing = errors.New("this image has no cryptsetup")

// Key opens a disk.
type Key struct {
	Secret []byte
	// Typed is for what a person thought of, which has to be slow to guess.
	// Others are 256 random bits.
	Typed bool
}

// Program is cryptsetup, and the way to run it.
type Program struct {
	run func(stdin []byte, name string, args ...string) (string, error)
	sys string // where sysfs is
}

// Cryptsetup returns the cryptsetup of the node.
func Cryptsetup() Program { return Program{run: command.Input, sys: "/sys"} }

// exitKey is cryptsetup's exit status for a wrong key (cryptsetup(8), "RETURN
// CODES").
const exitKey = 2

func (p Program) cryptsetup(stdin []byte, args ...string) error {
	_, err := p.run(stdin, "cryptsetup", append([]string{"--batch-mode"}, args...)...)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return hint.With(ErrMissing, "add the overlay luks to the image's spec")
	case command.ExitStatus(err) == exitKey:
		return ErrKey
	}
	return err
}

// Format makes an encrypted disk of dev, which is size bytes long. All that was
// on it is lost. The key reaches cryptsetup by its standard input: arguments
// and environments are read by others.
func (p Program) Format(dev string, size int64, uuid, label string, key Key) error {
	args := []string{"luksFormat", "--type", "luks2", "--uuid", uuid, "--label", label, "--key-file", "-",
		"--offset", fmt.Sprint(HeaderSize / disk.SectorSize)}
	args = append(args, derivation(key)...)
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return err
	}
	adiantum := false
	if !hasAES(string(cpu)) {
		_, err := p.run(nil, "modprobe", "-q", "adiantum")
		adiantum = err == nil
	}
	if err := p.cryptsetup(key.Secret, append(append(args, cipher(hasAES(string(cpu)), adiantum, size)...), dev)...); err != nil {
		return fmt.Errorf("encrypting %s: %w", dev, err)
	}
	return nil
}

// derivation returns how what opens the disk is made of a key. The costs of a
// passphrase are bounded so that a Zero 2 W with its 512 MiB can pay them.
// Random bits gain nothing by being slow; 1000 rounds are the least that
// cryptsetup takes.
func derivation(key Key) []string {
	if key.Typed {
		return []string{"--pbkdf", "argon2id", "--pbkdf-memory", "65536", "--iter-time", "2000"}
	}
	return []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}
}

// cipher returns what the disk is encrypted with. A Pi 3 or 4 has no AES
// instructions, and does Adiantum several times faster (docs/platform.md 11.1).
func cipher(aes, adiantum bool, size int64) []string {
	if aes || !adiantum {
		return []string{"--cipher", "aes-xts-plain64", "--key-size", "512"}
	}
	args := []string{"--cipher", "xchacha12,aes-adiantum-plain64", "--key-size", "256"}
	if size%4096 == 0 { // Adiantum works on whole sectors, and pays per sector
		args = append(args, "--sector-size", "4096")
	}
	return args
}

// hasAES reports whether the processor has AES instructions, from the text of
// /proc/cpuinfo.
func hasAES(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "Features" {
			return slices.Contains(strings.Fields(value), "aes")
		}
	}
	return false
}

// Open opens dev as Mapping. A wrong key is ErrKey. Discards are not passed on:
// they show which blocks are in use.
func (p Program) Open(dev string, key Key) error {
	if err := p.cryptsetup(key.Secret, "open", "--type", "luks2", "--key-file", "-", dev, name); err != nil {
		return fmt.Errorf("opening %s: %w", dev, err)
	}
	return nil
}

// Close closes Mapping, where it is open.
func (p Program) Close() error {
	if !p.IsOpen() {
		return nil
	}
	if err := p.cryptsetup(nil, "close", name); err != nil {
		return fmt.Errorf("closing %s: %w", Mapping, err)
	}
	return nil
}

// SetLabel labels an encrypted disk. cryptsetup returns when the disk has it.
func (p Program) SetLabel(dev, label string) error {
	if err := p.cryptsetup(nil, "config", "--label", label, dev); err != nil {
		return fmt.Errorf("labelling %s: %w", dev, err)
	}
	return nil
}

// IsOpen reports whether Mapping is there.
func (p Program) IsOpen() bool {
	all, _ := filepath.Glob(filepath.Join(p.sys, "block/dm-*/dm/name"))
	for _, file := range all {
		if b, err := os.ReadFile(file); err == nil && string(bytes.TrimSpace(b)) == name {
			return true
		}
	}
	return false
}
