package netboot

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

// Adoption is somebody's word that a machine is theirs.
type Adoption struct {
	// As is the hostname of the inventory's entry that the machine takes; ""
	// for what fits it by itself, or for no config.
	As string `yaml:"as,omitempty"`
	// MAC is the hardware address it had then, and must have from then on.
	MAC string `yaml:"mac,omitempty"`
}

// Adopted are the adoptions of a server: a folder with a file for each serial,
// fit for git. A second server on a copy of it knows the same machines.
type Adopted struct {
	Dir string

	mu   sync.Mutex
	list map[string]Adoption // as far as they were read
}

// serialForm is how a serial is written: what names of files are made of.
var serialForm = regexp.MustCompile(`^[0-9a-f]{8}$`)

// maxAdoption bounds a file, in bytes.
const maxAdoption = 4 << 10

// Load reads the folder; one that is not there yet holds none. Its error names
// the file that is wrong.
func (a *Adopted) Load() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = map[string]Adoption{}
	files, err := os.ReadDir(a.Dir)
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
		name := filepath.Join(a.Dir, f.Name())
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		var one Adoption
		d := yaml.NewDecoder(bytes.NewReader(b))
		d.KnownFields(true)
		if err := d.Decode(&one); len(b) > maxAdoption || err != nil {
			return fmt.Errorf("%s: %w; mend it, or remove it and adopt the machine again", name, err)
		}
		a.list[serial] = one
	}
	return nil
}

// Find returns the adoption of a machine, by its serial.
func (a *Adopted) Find(serial string) (Adoption, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	one, ok := a.list[serial]
	return one, ok
}

// By returns which machine was adopted as an entry of the inventory; "" for
// none.
func (a *Adopted) By(as string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for serial, one := range a.list {
		if one.As == as {
			return serial
		}
	}
	return ""
}

// Adopt writes an adoption down: whole or not at all, and on the disk when it
// returns.
func (a *Adopted) Adopt(serial string, one Adoption) error {
	if !serialForm.MatchString(serial) {
		return fmt.Errorf("serial %q: want eight hexadecimal digits in lower case", serial)
	}
	b, err := yaml.Marshal(one)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := os.MkdirAll(a.Dir, 0o755); err != nil {
		return err
	}
	name := filepath.Join(a.Dir, serial+".yaml")
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	if a.list == nil {
		a.list = map[string]Adoption{}
	}
	a.list[serial] = one
	return nil
}
