// Package spec reads the image spec: the YAML a person writes to say what an
// image is.
package spec

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/internal/shared/yamlcheck"
)

// Image is an image spec. Paths in it are relative to the spec's directory.
type Image struct {
	// Name is what people call the image. Required: lower-case letters,
	// digits and dashes.
	Name string `yaml:"name" jsonschema:"required"`
	// Stream is the name nodes go by: they upgrade within one stream only.
	// Default: the name.
	Stream string `yaml:"stream"`
	// Release is the image's number. Required: numbers with dots, which
	// compare number by number, 1.10 being newer than 1.9.
	Release string `yaml:"release" jsonschema:"required"`
	// Boards are the families of Pi the image is for. Default: all, without
	// the virtual ones.
	Boards []string `yaml:"boards"`
	// Alpine is the release whose packages are used; {alpine} in a
	// repository's URL stands for it. Default: 3.23.
	Alpine string `yaml:"alpine"`
	// Mirror is what {mirror} in a repository's URL stands for, such as
	// https://mirror.example/alpine.
	Mirror string `yaml:"mirror"`
	// Repositories are where packages come from. Required.
	Repositories []Repository `yaml:"repositories" jsonschema:"required"`
	// Packages are what the root is made of, as in /etc/apk/world. Required.
	Packages []string `yaml:"packages" jsonschema:"required"`
	// Vendor is a directory that pikelet vendor filled, or the reference of an
	// artifact it pushed, with http:// before it for a registry without TLS. What
	// is not in the cache comes from there, and from the mirrors only after that.
	Vendor string `yaml:"vendor"`
	// Layers are laid over the packages, in this order.
	Layers []Layer `yaml:"layers"`
	// Overlays are bundles laid over the layers: names of embedded ones, or
	// directories with an overlay.yaml. The base overlay is always there.
	Overlays []Overlay `yaml:"overlays"`
	// Services are enabled, by OpenRC runlevel: sysinit, boot, default,
	// shutdown.
	Services map[string][]string `yaml:"services"`
	// Kernel says which kernel runs and what it is told.
	Kernel Kernel `yaml:"kernel"`
	// Config are lines for config.txt, for a board or for all.
	Config map[string]Config `yaml:"config"`
	// IDs pins the numbers of users and groups that packages make without one.
	// Default: a number made of the name, from 300 to 899.
	IDs map[string]int `yaml:"ids"`
	// Strict makes errors of warnings: above all, of install scripts whose
	// effect Pikelet does not know. Default: false.
	Strict bool `yaml:"strict"`
	// Console opts into a console without a password: root. Default: none;
	// the console asks for a login that no account has a password for.
	Console string `yaml:"console"`
	// Inventory is a file with the node configs of a cluster, without secrets:
	// every node has the image. What is written to a node's own card counts
	// over it. Default: none.
	Inventory string `yaml:"inventory"`
	// SlotSize is the size of each of the two slots, such as 512MiB.
	// Default: 1GiB.
	SlotSize Size `yaml:"slot-size"`
	// StateSize is the size of the state partition in disk.img, which the node
	// grows to the card on its first boot. Default: 8MiB.
	StateSize Size `yaml:"state-size"`
	// Compression is fast, or small: less to download and to keep, for builds
	// and reads on nodes that take several times as long. Default: fast.
	Compression string `yaml:"compression"`
	// Keys are files with the PEM public keys that may sign images of this
	// stream. The key that signs must be one of them. Default: the key that
	// signs this image.
	Keys []string `yaml:"keys"`
	// Channel is the reference nodes watch for new releases, such as
	// registry.example/homelab:stable. Default: none; nodes upgrade when told.
	Channel string `yaml:"channel"`
	// Epoch is the time files of the image have and the earliest a node's
	// clock shows, such as 2026-11-21T00:00:00Z. Default: when the newest
	// package was built.
	Epoch Time `yaml:"epoch"`
	// Watchdog says how long a hung kernel may hang before the hardware resets
	// the machine: 6s to 15s, or off. Default: 15s.
	Watchdog string `yaml:"watchdog"`
	// Health says when a new release has proved itself.
	Health Health `yaml:"health"`

	file string
	dir  string
	text []byte
}

// Repository is one apk repository.
type Repository struct {
	// URL is a directory or an http(s) address, without the architecture. Below
	// that is the index: APKINDEX.tar.gz, or Packages.adb.
	URL string `yaml:"url"`
	// Keys are files with the public keys that may sign it, or directories with
	// such files, whose names end in .pub. Names matter: signatures of apk's
	// format 2 call keys by file name.
	Keys []string `yaml:"keys"`
	// Tag makes its packages available only to names written NAME@TAG.
	Tag string `yaml:"tag"`
}

// Layer is one source of files: a directory, a tar or an OCI image.
type Layer struct {
	// Names a directory whose contents are laid over the root.
	Folder string `yaml:"folder"`
	// Tar is an archive, plain or compressed with gzip, xz or zstd.
	Tar string `yaml:"tar"`
	// OCI is a container image: a registry's reference, with http:// before it
	// for one without TLS, or oci: and the directory of an OCI layout.
	OCI string `yaml:"oci"`
	// To is the directory of the root the layer is laid into. Default: /.
	To string `yaml:"to"`
	// Rules give files of a directory other owners and modes than root's. Of
	// several that fit, later ones count.
	Rules []Rule `yaml:"rules"`
}

// Rule gives files an owner and a mode.
type Rule struct {
	// Path fits files and directories by their path in the root, as in
	// etc/ssl/private/*; a pattern that ends in /** fits everything below.
	Path string `yaml:"path"`
	// Owner is USER:GROUP, by name or number. Default: root:root.
	Owner string `yaml:"owner"`
	// Mode is the permissions, such as "0600". Default: 0755 for directories and
	// what its owner may execute, 0644 for the rest.
	Mode string `yaml:"mode"`
}

// Overlay is a bundle and what it is told.
type Overlay struct {
	// Name is the name of an embedded overlay, or a directory.
	Name string `yaml:"name"`
	// With are values for the overlay's parameters.
	With map[string]string `yaml:"with"`
}

// UnmarshalYAML reads an overlay: its name alone, or name and with.
func (o *Overlay) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		o.Name = n.Value
		return nil
	}
	if err := yamlcheck.Fields(n, "name", "with"); err != nil {
		return err
	}
	type plain Overlay
	return n.Decode((*plain)(o))
}

// Health says when a new release has proved itself on a node.
type Health struct {
	// Soak is how long all checks must hold. Default: 60s.
	Soak Duration `yaml:"soak"`
	// Deadline is when a release that has not proved itself is left. Default:
	// 10m.
	Deadline Duration `yaml:"deadline"`
}

// Kernel says which kernel runs.
type Kernel struct {
	// Package is the package with /boot/vmlinuz-*. Default: linux-rpi.
	Package string `yaml:"package"`
	// Words are added to the kernel command line.
	Words []string `yaml:"words"`
}

// Config is a part of config.txt.
type Config struct {
	// Lines are taken as they are, at most 78 characters each.
	Lines []string `yaml:"lines"`
	// Overlays are DT overlays, NAME or NAME,parameter=value.
	Overlays []string `yaml:"overlays"`
}

// Size is a number of bytes, written as 512MiB or 1GiB.
type Size int64

// UnmarshalYAML reads a size.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	if err := s.Set(n.Value); err != nil {
		return yamlcheck.TypeError(n, "%v", err)
	}
	return nil
}

// Set reads a size; with String and Type it makes flags of sizes.
func (s *Size) Set(text string) error {
	for unit, factor := range map[string]int64{"MiB": 1 << 20, "GiB": 1 << 30} {
		if number, ok := strings.CutSuffix(text, unit); ok {
			v, err := strconv.ParseInt(strings.TrimSpace(number), 10, 32)
			if err == nil && v > 0 {
				*s = Size(v * factor)
				return nil
			}
		}
	}
	return fmt.Errorf("invalid size %q; write it as 512MiB or 1GiB", text)
}

// String writes the size in the largest unit that is exact.
func (s *Size) String() string {
	if *s%(1<<30) == 0 {
		return fmt.Sprintf("%dGiB", *s>>30)
	}
	return fmt.Sprintf("%dMiB", *s>>20)
}

// Type is what help calls a size.
func (s *Size) Type() string { return "size" }

// Duration is a span of time, written as 60s or 10m.
type Duration time.Duration

// UnmarshalYAML reads a duration.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil || v <= 0 {
		return yamlcheck.TypeError(n, "invalid duration %q; write it as 60s or 10m", n.Value)
	}
	*d = Duration(v)
	return nil
}

// Time is a moment in whole seconds.
type Time struct{ time.Time }

// UnmarshalYAML reads a moment.
func (t *Time) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.Parse(time.RFC3339, n.Value)
	if err != nil || v.Unix() <= 0 {
		return yamlcheck.TypeError(n, "invalid time %q; write it as 2026-11-21T00:00:00Z", n.Value)
	}
	t.Time = v
	return nil
}

// ConsoleRoot is the value of Console that opens it to whoever holds the
// machine.
const ConsoleRoot = "root"

// Text returns the bytes of the spec.
func (i *Image) Text() []byte { return i.text }

// File is where the spec was read from.
func (i *Image) File() string { return i.file }

// WatchdogOff is the value of Watchdog that leaves the hardware's alone.
const WatchdogOff = "off"

// Path returns a path of the spec's as seen from where the program runs.
func (i *Image) Path(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(i.dir, p)
}

// Error is everything wrong with a spec, each with file, line and field.
type Error = yamlcheck.Error

// Load reads a spec strictly. Its error is an *Error with all mistakes.
func Load(file string) (*Image, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the image spec: %w", err)
	}
	return Parse(file, b)
}

// Parse is Load on bytes that were read from file.
func Parse(file string, b []byte) (*Image, error) {
	img := &Image{file: file, dir: filepath.Dir(file), text: b}
	c := &checker{yamlcheck.New(file)}
	if _, ok := c.Decode(b, img); !ok {
		return nil, c.Err()
	}
	img.defaults()
	c.check(img)
	return img, c.Err()
}

func (i *Image) defaults() {
	if i.Stream == "" {
		i.Stream = i.Name
	}
	if i.Alpine == "" {
		i.Alpine = "3.23"
	}
	if i.Kernel.Package == "" {
		i.Kernel.Package = "linux-rpi"
	}
	if len(i.Boards) == 0 {
		i.Boards = boards.Pis()
	}
	if i.SlotSize == 0 {
		i.SlotSize = 1 << 30
	}
	if i.StateSize == 0 {
		i.StateSize = disk.StateInImage
	}
	if i.Compression == "" {
		i.Compression = squashfs.Fast().Name
	}
	if i.Watchdog == "" {
		i.Watchdog = "15s"
	}
	if i.Health.Soak == 0 {
		i.Health.Soak = Duration(time.Minute)
	}
	if i.Health.Deadline == 0 {
		i.Health.Deadline = Duration(10 * time.Minute)
	}
	for n := range i.Repositories {
		r := &i.Repositories[n]
		r.URL = strings.ReplaceAll(r.URL, "{alpine}", i.Alpine)
		if i.Mirror != "" { // without one, check complains of the word
			r.URL = strings.ReplaceAll(r.URL, "{mirror}", strings.TrimSuffix(i.Mirror, "/"))
		}
		r.URL = strings.TrimSuffix(r.URL, "/")
	}
}
