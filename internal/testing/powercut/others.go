package powercut

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	diskfs "github.com/diskfs/go-diskfs"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Others has programs of others read a slot of a state: go-diskfs through the
// partition table, and mtools. Each must find every file that the slot's
// manifest names, with its digest. dir is a directory for the card's bytes.
func (s *State) Others(dir string, l slots.Letter) error {
	t, err := disk.ReadTable(s)
	if err != nil {
		return err
	}
	p := t.Partitions[l.Partition()-1]
	name := filepath.Join(dir, "card")
	if err := s.Card().Dump(name, t.End()); err != nil {
		return err
	}
	defer os.Remove(name)
	d, err := diskfs.Open(name, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		return fmt.Errorf("go-diskfs: %w", err)
	}
	defer d.Close()
	vol, err := d.GetFilesystem(l.Partition())
	if err != nil {
		return fmt.Errorf("go-diskfs: %w", err)
	}
	mtools := func(file string, _ int64) ([]byte, error) {
		out, err := exec.Command("env", "MTOOLS_SKIP_CHECK=1", "mcopy", "-i", fmt.Sprintf("%s@@%d", name, p.Start), "::"+file, "-").Output()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return out, err
	}
	text, err := mtools(image.ManifestFile, 0)
	if err != nil {
		return fmt.Errorf("mtools: %w", err)
	}
	m, err := image.DecodeManifest(text)
	if err != nil {
		return fmt.Errorf("mtools: %w", err)
	}
	for who, read := range map[string]func(string, int64) ([]byte, error){
		"mtools": mtools,
		"go-diskfs": func(file string, size int64) ([]byte, error) {
			r, err := vol.OpenFile("/"+file, os.O_RDONLY)
			if err != nil {
				return nil, err
			}
			// In one read: v1.9.4 returns bytes behind the end of a file that is
			// read in pieces.
			b := make([]byte, size)
			_, err = io.ReadFull(r, b)
			return b, err
		},
	} {
		for _, f := range m.Files {
			file, ok := l.OnSlot(f.Name)
			if !ok {
				continue
			}
			b, err := read(file, f.Size)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", who, file, err)
			}
			if image.DigestOf(b) != f.Digest {
				return fmt.Errorf("%s: %s: digest mismatch: got %s, want %s", who, file, image.DigestOf(b), f.Digest)
			}
		}
	}
	return nil
}

// Dump writes a card into a file of some length, zeros as holes.
func (c *Card) Dump(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	for n, page := range c.pages {
		if n*pageSize < size {
			if _, err := f.WriteAt(page[:], n*pageSize); err != nil {
				return err
			}
		}
	}
	return nil
}
