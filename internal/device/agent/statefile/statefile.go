// Package statefile writes files on the state partition, which survive power cuts.
package statefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pikelet-os/pikelet/internal/shared/atomicfile"
)

// Write writes a file on state that only root reads: whole or not at all, and
// on the card when it returns.
func Write(name string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(name, b, 0o600)
}

// Remove removes a file on state; it stays removed after a power cut.
func Remove(name string) error {
	err := os.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return atomicfile.Sync(filepath.Dir(name))
}
