package netboot

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/whole"
)

// Records are what a server remembers of machines: a folder with a small file
// for each serial, fit for git. A second server on a copy of it knows the same.
type Records[T any] struct {
	Dir string

	mu   sync.Mutex
	list map[string]T
}

// serialForm is how a serial is written: what names of files are made of.
var serialForm = regexp.MustCompile(`^[0-9a-f]{8}$`)

// maxRecord bounds a file, in bytes.
const maxRecord = 4 << 10

// Load reads the folder; one that is not there yet holds none. Its error names
// the file that is wrong.
func (r *Records[T]) Load() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = map[string]T{}
	files, err := os.ReadDir(r.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		serial, ok := strings.CutSuffix(f.Name(), ".yaml")
		if !ok || !serialForm.MatchString(serial) {
			continue
		}
		name := filepath.Join(r.Dir, f.Name())
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if len(b) > maxRecord {
			return fmt.Errorf("%s has %d bytes, more than %d", name, len(b), maxRecord)
		}
		var one T
		d := yaml.NewDecoder(bytes.NewReader(b))
		d.KnownFields(true)
		if err := d.Decode(&one); err != nil {
			return fmt.Errorf("%s: %w; mend it, or remove it: the machine is then one that nothing is known of", name, err)
		}
		r.list[serial] = one
	}
	return nil
}

// Find returns what is known of a machine.
func (r *Records[T]) Find(serial string) (T, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one, ok := r.list[serial]
	return one, ok
}

// All returns everything.
func (r *Records[T]) All() map[string]T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.list)
}

// Put writes a record down: whole or not at all, and on the disk when it
// returns.
func (r *Records[T]) Put(serial string, one T) error {
	if !serialForm.MatchString(serial) {
		return fmt.Errorf("serial %q: want eight hexadecimal digits in lower case", serial)
	}
	b, err := yaml.Marshal(one)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		return err
	}
	if err := whole.Write(filepath.Join(r.Dir, serial+".yaml"), b, 0o644); err != nil {
		return err
	}
	if r.list == nil {
		r.list = map[string]T{}
	}
	r.list[serial] = one
	return nil
}

// Adoption is somebody's word that a machine is theirs.
type Adoption struct {
	// As is the hostname of the inventory's entry that the machine takes; ""
	// for what fits it by itself, or for no config.
	As string `yaml:"as,omitempty"`
	// MAC is the hardware address it had then, and must have from then on.
	MAC string `yaml:"mac,omitempty"`
}

// AdoptedAs returns which machine was adopted as an entry of the inventory; ""
// for none.
func AdoptedAs(r *Records[Adoption], as string) string {
	for serial, one := range r.All() {
		if one.As == as {
			return serial
		}
	}
	return ""
}
