// Package lock reads and writes the file that pins every input of a build,
// beside the spec it belongs to.
package lock

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
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
	// Indexes are those that the packages were chosen from, by repository: pikelet lock
	// takes none that is older.
	Indexes  map[string]Index `yaml:"indexes,omitempty"`
	Packages []Package        `yaml:"packages"`
	Layers   []Layer          `yaml:"layers,omitempty"`
	Overlays []Layer          `yaml:"overlays,omitempty"`
}

// Index is what is known of a repository's signed index. Times are in seconds since
// 1970.
type Index struct {
	Digest  string `yaml:"digest"`            // of the file as it was fetched
	Written int64  `yaml:"written,omitempty"` // when it was made; 0 where it does not say
	Newest  int64  `yaml:"newest,omitempty"`  // when its newest package was built
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

func day(seconds int64) string { return time.Unix(seconds, 0).UTC().Format("2006-01-02 15:04") }
