// Package lock reads and writes the file that pins every input of a build,
// beside the spec it belongs to.
package lock

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Format is the version of the file's layout.
const Format = 1

// File is a lock.
type File struct {
	Format int `yaml:"format"`
	// Tool is the version of pikelet that wrote it.
	Tool string `yaml:"tool"`
	// Epoch is the image's time, seconds since 1970.
	Epoch int64 `yaml:"epoch"`
	// Programs are digests of what pikelet itself puts into an image, by name.
	Programs map[string]string `yaml:"programs"`
	// World and Repositories are what the spec said when it was locked: with
	// another, the lock is out of date.
	World        []string `yaml:"world"`
	Repositories []string `yaml:"repositories"`
	// Newest is when the newest package of each repository's index was built,
	// seconds since 1970. Indexes are signed and have no date of their own.
	Newest   map[string]int64 `yaml:"newest,omitempty"`
	Packages []Package        `yaml:"packages"`
	Layers   []Layer          `yaml:"layers,omitempty"`
	Overlays []Layer          `yaml:"overlays,omitempty"`
}

// Package is one pinned package.
type Package struct {
	Name       string `yaml:"name"`
	Version    string `yaml:"version"`
	Arch       string `yaml:"arch"`
	Repository string `yaml:"repository"` // as the spec says it
	// Identity is what the index knows the package by, which pins the data: Q1
	// and base64 of a SHA-1, or Q2 and that of a SHA-256 (docs/platform.md 5.9).
	Identity string `yaml:"identity"`
	Size     int64  `yaml:"size"` // bytes of the .apk
}

// Layer is one pinned layer or overlay.
type Layer struct {
	Kind   string `yaml:"kind"` // "folder", "tar", "oci" or "overlay"
	Name   string `yaml:"name"` // as the spec says it
	Digest string `yaml:"digest"`
}

// Name returns the file name of a spec's lock.
func Name(spec string) string { return spec + ".lock" }

// Encode returns the bytes of a lock.
func (f *File) Encode() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("# Every input of the image, pinned. Written by pikelet lock; keep it in git.\n")
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(f); err != nil {
		return nil, err
	}
	err := enc.Close()
	return b.Bytes(), err
}

// loginForm is an address with a user name or a password in it, which earlier
// versions took. Whoever sees the lock has it, so it is neither used nor quoted.
var loginForm = regexp.MustCompile(`://[^/]*@`)

// identityForm is how the identity of a package begins.
var identityForm = regexp.MustCompile(`^Q[12]`)

// ErrOutdated is returned for a lock whose spec asks for other inputs.
var ErrOutdated = errors.New("does not fit the spec")

// Decode reads a lock strictly: unknown fields, another format, and a lock that
// does not pin every input are errors.
func Decode(b []byte) (*File, error) {
	var f File
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the file is empty")
		}
		return nil, fmt.Errorf("reading the lock: %w", err)
	}
	if err := f.check(); err != nil {
		return nil, hint.With(fmt.Errorf("reading the lock: %w", err), "write a new lock")
	}
	return &f, nil
}

func (f *File) check() error {
	if f.Format != Format {
		return fmt.Errorf("unsupported format %d, want %d", f.Format, Format)
	}
	for _, p := range f.Packages {
		if p.Name == "" || p.Version == "" || p.Repository == "" || p.Size <= 0 || !identityForm.MatchString(p.Identity) {
			return fmt.Errorf("incomplete package %q", p.Name+"-"+p.Version)
		}
		if strings.ContainsAny(p.Name+p.Version, "/\\ ") || strings.HasPrefix(p.Name, ".") {
			return fmt.Errorf("invalid package name %q", p.Name+"-"+p.Version)
		}
	}
	for _, r := range f.Repositories {
		if loginForm.MatchString(r) {
			return hint.With(errors.New("the address of a repository holds a user name or a password"),
				"change that password: whoever can read the lock's history has it")
		}
	}
	if f.Epoch <= 0 || len(f.Packages) == 0 {
		return errors.New("no epoch or no packages")
	}
	return nil
}

// Load reads the lock of a spec; there may be none.
func Load(spec string) (*File, error) {
	f, _, err := LoadText(spec)
	return f, err
}

// LoadText is Load that returns the bytes of the lock too.
func LoadText(spec string) (*File, []byte, error) {
	b, err := os.ReadFile(Name(spec))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading the lock: %w", err)
	}
	f, err := Decode(b)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", Name(spec), err)
	}
	return f, b, nil
}

// Save writes the lock of a spec: the old one, or the new one whole.
func (f *File) Save(spec string) error {
	b, err := f.Encode()
	if err != nil {
		return err
	}
	name := Name(spec)
	tmp, err := os.CreateTemp(filepath.Dir(name), ".lock-")
	if err != nil {
		return fmt.Errorf("writing the lock: %w", err)
	}
	defer os.Remove(tmp.Name())
	if _, err = tmp.Write(b); err == nil {
		err = tmp.Chmod(0o644)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("writing the lock: %w", err)
	}
	return nil
}

// Older returns an error where a repository shows an older index to now than it
// did to old, which may be nil: the mirror is behind, or an attacker replays an
// index whose packages have known flaws.
func Older(old, now *File) error {
	if old == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(now.Newest)) {
		if was := old.Newest[name]; now.Newest[name] < was {
			err := fmt.Errorf("repository %s: the index is older than the one the lock was made with (newest package of %s, then of %s): "+
				"the mirror is behind, or shows an old index", name, day(now.Newest[name]), day(was))
			return hint.With(err, "ask another mirror, or remove the lock to take the old index all the same")
		}
	}
	return nil
}

func day(seconds int64) string { return time.Unix(seconds, 0).UTC().Format("2006-01-02 15:04") }
