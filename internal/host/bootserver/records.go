package bootserver

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

	"github.com/pikelet-os/pikelet/internal/shared/atomicfile"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Records are the persistent data of machines: a directory with a small YAML file
// for each machine, which can be kept in git and copied to another server. A
// record is named by a serial, or by a serial and a hardware address.
type Records[T any] struct {
	Dir string

	mu   sync.Mutex
	list map[string]T // by the name of the record
}

// The forms of a serial, a hardware address and the name of a record, which is a
// file name without its extension.
var (
	serialForm = regexp.MustCompile(`^[0-9a-f]{8}$`)
	macForm    = regexp.MustCompile(`^[0-9a-f]{2}(:[0-9a-f]{2}){5}$`)
	recordForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{12})?$`)
)

// record returns the name of a machine's own record.
func (m Machine) record() string { return m.Serial + "-" + strings.ReplaceAll(m.MAC, ":", "") }

// maxRecord is the maximum size of a file in bytes.
const maxRecord = 4 << 10

// Load reads the directory; a missing one holds no records. Errors name the
// invalid file.
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
		key, ok := strings.CutSuffix(f.Name(), ".yaml")
		if !ok || !recordForm.MatchString(key) {
			continue
		}
		name := filepath.Join(r.Dir, f.Name())
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if len(b) > maxRecord {
			return fmt.Errorf("reading %s: the file is too large: got %d bytes, want at most %d", name, len(b), maxRecord)
		}
		var one T
		d := yaml.NewDecoder(bytes.NewReader(b))
		d.KnownFields(true)
		if err := d.Decode(&one); err != nil {
			return hint.With(fmt.Errorf("reading %s: %w", name, err), "correct the file, or remove it to forget the machine")
		}
		r.list[key] = one
	}
	return nil
}

// Find returns the record of a key.
func (r *Records[T]) Find(key string) (T, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one, ok := r.list[key]
	return one, ok
}

// Len returns how many records there are.
func (r *Records[T]) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.list)
}

// All returns every record, by its key.
func (r *Records[T]) All() map[string]T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.list)
}

// Put writes a record atomically. The record is on the disk when Put returns.
func (r *Records[T]) Put(key string, one T) error {
	return r.Update(key, func(T, bool) (T, bool) { return one, true })
}

// Update replaces a record with the result of change, and writes it as Put does
// if change reports that the record changed. ok is false where there was no
// record. r is locked meanwhile: change must not use it.
func (r *Records[T]) Update(key string, change func(was T, ok bool) (is T, changed bool)) error {
	if !recordForm.MatchString(key) {
		return fmt.Errorf("invalid record name %q: want a serial of eight hexadecimal digits in lower case, "+
			"alone or with a dash and the twelve digits of a hardware address", key)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	was, ok := r.list[key]
	is, changed := change(was, ok)
	if !changed {
		return nil
	}
	b, err := yaml.Marshal(is)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(r.Dir, key+".yaml"), b, 0o644); err != nil {
		return err
	}
	if r.list == nil {
		r.list = map[string]T{}
	}
	r.list[key] = is
	return nil
}

// EndingIn returns the one of several serials that ends in some digits, as its
// last eight; ok is false where there is none, or several.
func EndingIn(digits string, serials []string) (serial string, ok bool) {
	for _, s := range serials {
		if !strings.HasSuffix(s, digits) || short(s) == serial {
			continue
		}
		if serial != "" {
			return "", false
		}
		serial = short(s)
	}
	return serial, serial != ""
}

// Adoption records that a person adopted a machine.
type Adoption struct {
	// As is the hostname of the entry of the inventory that the machine becomes;
	// "" for the entry that matches the machine, if any.
	As string `yaml:"as,omitempty"`
	// MAC is the hardware address that the machine had when it was adopted, and
	// must keep.
	MAC string `yaml:"mac,omitempty"`
}

// AdoptedAs returns the serial of the machine that was adopted as an entry of the
// inventory; "" for none.
func AdoptedAs(r *Records[Adoption], as string) string {
	for serial, one := range r.All() {
		if one.As == as {
			return serial
		}
	}
	return ""
}
