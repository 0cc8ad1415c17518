// Package image describes the thing Pikelet ships: the files of a slot
// under one OCI manifest, the Pikelet manifest that lists them, and the
// signature over both. Its functions read and write these texts and check one
// against the other; they move no files.
package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"sort"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/verity"
)

// Names that files of every artifact have.
const (
	RootFile      = "root.squashfs"
	KernelFile    = "vmlinuz"
	InitramfsFile = "initramfs"
	ConfigFile    = "config.txt"

	// KernelConfigFile holds the kernel's build options, gzipped.
	KernelConfigFile = "kernel.config.gz"

	// On a card beside the files, in no list of files.
	ManifestFile  = "manifest.json"
	SignatureFile = "signature.json"
)

// Limits on what is read of a card or a registry, in bytes. The manifest of
// an image with 400 DT overlays has 60 KiB.
const (
	MaxManifest  = 1 << 20
	MaxSignature = 4 << 20
	MaxOCI       = 4 << 20 // what registries take as a manifest (docs/platform.md 10.1)
)

// Format is the version of Manifest's meaning. Readers refuse others.
const Format = 1

// Manifest says what an image is.
type Manifest struct {
	Format   int      `json:"format"`
	Stream   string   `json:"stream"`  // the image's own name
	Release  string   `json:"release"` // its number
	BuildID  string   `json:"buildID"` // hash of the plan, 32 hex digits
	Epoch    int64    `json:"epoch"`   // seconds since 1970; clocks of nodes never go below
	Arch     string   `json:"arch"`    // as OCI says it: arm64
	Boards   []string `json:"boards"`
	SlotSize int64    `json:"slotSize"` // bytes of a slot's partition
	Packages string   `json:"packages"` // digest of the package list
	// Kubernetes is the version that the image brings, such as v1.34.4; "" for
	// none, or where the builder could not tell.
	Kubernetes string `json:"kubernetes,omitempty"`
	Root       Root   `json:"root"`
	Files      []File `json:"files"` // sorted by name
}

// Root says how the root is opened and how it was written.
type Root struct {
	DataBlocks uint64 `json:"dataBlocks"` // of 4096 bytes; the hash tree follows
	Salt       string `json:"salt"`       // hex
	Hash       string `json:"hash"`       // hex

	// What wrote the squashfs: the generation of the writer, what it calls the
	// compression, and the bytes of a block. Whoever has the same and the files
	// can write it again.
	Generation  int    `json:"generation"`
	Compression string `json:"compression"`
	BlockSize   int    `json:"blockSize"`
}

// File is one file of a slot.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	Digest string `json:"digest"` // sha256:hex
}

// DigestOf returns the OCI digest of b.
func DigestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return DigestOfSum(sum[:])
}

// DigestOfSum returns the OCI digest that a SHA-256 is written as.
func DigestOfSum(sum []byte) string { return "sha256:" + hex.EncodeToString(sum) }

// Verity returns the parameters the kernel needs to open the root.
func (m *Manifest) Verity() (verity.Params, error) {
	salt, err := hex.DecodeString(m.Root.Salt)
	if err != nil {
		return verity.Params{}, fmt.Errorf("reading the salt of the manifest: %w", err)
	}
	hash, err := hex.DecodeString(m.Root.Hash)
	if err != nil || len(hash) != sha256.Size {
		return verity.Params{}, fmt.Errorf("invalid root hash %q in the manifest: want %d hexadecimal digits", m.Root.Hash, 2*sha256.Size)
	}
	return verity.Params{DataBlocks: m.Root.DataBlocks, Salt: salt, RootHash: hash}, nil
}

// File returns the entry of a name.
func (m *Manifest) File(name string) (File, bool) {
	for _, f := range m.Files {
		if f.Name == name {
			return f, true
		}
	}
	return File{}, false
}

// Lacking returns the files of an image whose contents another has not. nil has
// nothing.
func (m *Manifest) Lacking(other *Manifest) (list []File) {
	there := map[string]bool{}
	if other != nil {
		for _, f := range other.Files {
			there[f.Digest] = true
		}
	}
	for _, f := range m.Files {
		if !there[f.Digest] {
			list = append(list, f)
		}
	}
	return list
}

// Encode returns the manifest's bytes, the same for the same contents.
func (m *Manifest) Encode() ([]byte, error) {
	sort.Slice(m.Files, func(i, j int) bool { return m.Files[i].Name < m.Files[j].Name })
	if err := m.check(); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(m, "", " ")
	return append(b, '\n'), err
}

// DecodeManifest reads a manifest strictly.
func DecodeManifest(b []byte) (*Manifest, error) {
	if len(b) > MaxManifest {
		return nil, fmt.Errorf("reading a manifest: %d bytes, more than %d", len(b), MaxManifest)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var m Manifest
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("reading a manifest: %w", err)
	}
	return &m, m.check()
}

var (
	digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	buildForm  = regexp.MustCompile(`^[0-9a-f]{32}$`)

	kubernetesForm = regexp.MustCompile(`^v[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}$`)
)

func (m *Manifest) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("a manifest that "+format, args...)
	}
	switch {
	case m.Format != Format:
		return bad("is of format %d; this program knows %d", m.Format, Format)
	case m.Stream == "" || m.Release == "" || m.Arch == "" || !buildForm.MatchString(m.BuildID):
		return bad("lacks its stream, release, arch or build id")
	case m.Kubernetes != "" && !kubernetesForm.MatchString(m.Kubernetes):
		return bad("names a Kubernetes %q, want a version such as v1.34.4", m.Kubernetes)
	case m.SlotSize <= 0 || m.Root.DataBlocks == 0 || m.Root.DataBlocks > 1<<32:
		return bad("names no size for its slot or root")
	}
	for i, f := range m.Files {
		if f.Name == "" || strings.HasPrefix(f.Name, "/") || strings.Contains(f.Name, "..") || strings.ContainsAny(f.Name, "\\\x00") {
			return bad("names a file %q", f.Name)
		}
		if f.Size < 0 || !digestForm.MatchString(f.Digest) {
			return bad("gives no size or digest for %q", f.Name)
		}
		if i > 0 && m.Files[i-1].Name >= f.Name {
			return bad("has its files out of order at %q", f.Name)
		}
	}
	root, ok := m.File(RootFile)
	if want := int64(m.Root.DataBlocks)*verity.BlockSize + verity.TreeSize(m.Root.DataBlocks); !ok || root.Size != want {
		return bad("has no %s of the %d bytes its hash tree asks for", RootFile, want)
	}
	return nil
}

// CompareReleases compares two releases, numbers with dots, number by number:
// negative where a is lower, 0 where they are the same.
func CompareReleases(a, b string) int {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(x), len(y)) {
		var m, n string
		if i < len(x) {
			m = strings.TrimLeft(x[i], "0")
		}
		if i < len(y) {
			n = strings.TrimLeft(y[i], "0")
		}
		if d := len(m) - len(n); d != 0 {
			return d
		}
		if d := strings.Compare(m, n); d != 0 {
			return d
		}
	}
	return 0
}
