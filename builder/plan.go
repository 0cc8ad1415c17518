package builder

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/builder/deviceprogs"
	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/builder/lock"
	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/layers/apk"
	"github.com/pikelet-os/pikelet/overlays"
)

// Arch is what images are built for, in Alpine's words; ociArch is the same
// in OCI's.
const (
	Arch    = "aarch64"
	ociArch = "arm64"
)

// maxIndexFile bounds a compressed index; Alpine's largest has 3 MiB.
const maxIndexFile = 64 << 20

// Plan is a build with every input pinned.
type Plan struct {
	Image    *spec.Image
	Packages []Package
	Layers   []Layer
	Overlays []overlays.Overlay // the base first
	// Added are programs of pikelet itself that overlays add, by name.
	Added    map[string][]byte
	Programs deviceprogs.Programs
	// Inventory is the file of node configs that goes into the image; nil for
	// none.
	Inventory []byte
	Words     []string // of the kernel command line, without those of the slot
	Keys      []string // PEM public keys that may sign
	Epoch     int64    // seconds since 1970
	// Indexes are those that packages were chosen from, by what the spec calls the
	// repository; nil where no index was read.
	Indexes map[string]lock.Index
	BuildID string
	Notes   []Warning // what the person who builds should know
}

// Package is a chosen package and where it is.
type Package struct {
	*apk.Package
	repository string // as the spec says it
	url        string
	keys       apk.Keyring
}

// vendored is what a vendor calls the package.
func (pkg Package) vendored() string { return Arch + "/" + pkg.FileName() }

// Resolve pins every input of the build: as the lock says, or, without one,
// by reading the repositories' indexes. The error wraps lock.ErrOutdated where the
// lock does not fit the spec, and a *fetch.Missing where an input cannot be had.
func Resolve(ctx context.Context, img *spec.Image, in Inputs) (*Plan, error) {
	return resolve(ctx, img, in, nil)
}

// resolve is Resolve for a build, which reads directories into c while it pins
// them.
func resolve(ctx context.Context, img *spec.Image, in Inputs, c *contents) (*Plan, error) {
	p := &Plan{Image: img, Programs: in.Programs, Words: append(cmdline.Base(), img.Kernel.Words...)}
	if img.Watchdog == spec.WatchdogOff {
		p.Words = append(p.Words, cmdline.WatchdogOff)
	}
	if err := p.pinKeys(in.Key); err != nil {
		return nil, err
	}
	if err := p.pinInventory(); err != nil {
		return nil, err
	}
	if err := p.pinOverlays(in.Lock); err != nil {
		return nil, err
	}
	if err := p.addPrograms(); err != nil {
		return nil, err
	}
	var err error
	if in.Lock != nil {
		err = p.fromLock(in)
	} else {
		err = p.choose(ctx, in.Cache)
	}
	if err != nil {
		return nil, err
	}
	if err := p.checkRelease(); err != nil {
		return nil, err
	}
	if err := p.pinLayers(ctx, in, c); err != nil {
		return nil, err
	}
	if !img.Epoch.IsZero() {
		p.Epoch = img.Epoch.Unix()
	}
	sum := sha256.Sum256(p.identity())
	p.BuildID = hex.EncodeToString(sum[:16])
	return p, nil
}

// pinKeys reads the public keys that may sign. Without any in the spec it is
// the one that signs.
func (p *Plan) pinKeys(key *ecdsa.PrivateKey) error {
	own, err := image.EncodePublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	if len(p.Image.Keys) == 0 {
		p.Keys = []string{string(own)}
		return nil
	}
	signs := false
	for _, name := range p.Image.Keys {
		b, err := os.ReadFile(p.Image.Path(name))
		if err != nil {
			return err
		}
		pub, err := image.ParsePublicKey(b)
		if err != nil {
			return fmt.Errorf("keys: %s: %w", name, err)
		}
		text, err := image.EncodePublicKey(pub)
		if err != nil {
			return err
		}
		signs = signs || bytes.Equal(text, own)
		p.Keys = append(p.Keys, string(text))
	}
	if !signs {
		return fmt.Errorf("the key that signs is none of the spec's keys (%s): nodes would refuse the image", strings.Join(p.Image.Keys, ", "))
	}
	return nil
}

// pinInventory reads the inventory, which may hold no secret.
func (p *Plan) pinInventory() error {
	name := p.Image.Inventory
	if name == "" {
		return nil
	}
	b, err := os.ReadFile(p.Image.Path(name))
	if err != nil {
		return fmt.Errorf("inventory: %w", err)
	}
	d, err := nodeconfig.Load(name, b, boards.Names(), true)
	if err != nil {
		return err
	}
	p.Inventory = b
	warnings, err := d.CheckK3s()
	for _, w := range warnings {
		p.Notes = append(p.Notes, warning("k3s option is ignored", "problem", w))
	}
	return errors.Join(err, d.Public())
}

// checkRelease looks whether the image's k3s takes the options of the inventory,
// where its version is known: from Alpine's package, or the address of a release.
func (p *Plan) checkRelease() error {
	minor := 0
	for _, pkg := range p.Packages {
		if pkg.Name == "k3s" {
			minor = nodeconfig.K3sMinor(pkg.Version)
		}
	}
	for _, o := range p.Overlays {
		for _, f := range o.Fetch {
			if f.Unpack == overlays.UnpackK3s {
				minor = nodeconfig.K3sMinor(f.URL)
			}
		}
	}
	if minor == 0 || p.Inventory == nil {
		return nil
	}
	d, err := nodeconfig.Load(p.Image.Inventory, p.Inventory, boards.Names(), true)
	if err != nil {
		return err
	}
	warnings, err := d.CheckK3sRelease(minor)
	for _, w := range warnings {
		p.Notes = append(p.Notes, warning("k3s option is ignored", "problem", w))
	}
	return err
}

// pinOverlays finds the overlays, the base first.
func (p *Plan) pinOverlays(l *lock.File) error {
	base, err := overlays.Base()
	if err != nil {
		return err
	}
	p.Overlays = []overlays.Overlay{base}
	var errs []error
	for _, o := range p.Image.Overlays {
		found, err := overlays.Find(o.Name, p.Image.Path(o.Name), o.With)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.Overlays = append(p.Overlays, found)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if l == nil {
		return overlays.Clash(p.Overlays)
	}
	if len(l.Overlays) != len(p.Overlays) {
		return p.outdated("the spec has %d overlays, the lock %d", len(p.Overlays), len(l.Overlays))
	}
	for i, o := range p.Overlays {
		want := l.Overlays[i]
		if want.Name == o.Name && want.Digest != o.Digest() && o.Embedded && len(o.Parameters) == 0 {
			p.Notes = append(p.Notes, warning("lock was made with another version of a built-in overlay, the image will differ",
				"overlay", o.Name))
			continue
		}
		if want.Name != o.Name || want.Digest != o.Digest() {
			return p.outdated("the overlay %s is %s, the lock has %s %s", o.Name, o.Digest(), want.Name, want.Digest)
		}
	}
	return overlays.Clash(p.Overlays)
}

// virtual are names the builder itself provides to packages: linux-rpi
// depends on a program that makes an initramfs, and the builder makes it.
func virtual() *apk.Index {
	return &apk.Index{Packages: []*apk.Package{{
		Name: virtualName, Version: "1", Arch: "noarch", Identity: "Q1", ProviderPriority: 1000,
		Provides: []apk.Dep{{Name: "initramfs-generator", Op: "=", Version: "1"}},
	}}}
}

const virtualName = ".pikelet-builder"

// rings returns each repository's address and the keys that may sign it.
func (p *Plan) rings() (urls []string, rings []apk.Keyring, err error) {
	for n, r := range p.Image.Repositories {
		url := r.URL
		if !fetch.IsRemote(url) {
			url = p.Image.Path(url)
		}
		ring := apk.Keyring{}
		for _, k := range r.Keys {
			b, err := os.ReadFile(p.Image.Path(k))
			if err != nil {
				return nil, nil, fmt.Errorf("repositories[%d].keys: %w", n, err)
			}
			if err := ring.Add(filepath.Base(k), b); err != nil {
				return nil, nil, fmt.Errorf("repositories[%d].keys: %s: %w", n, k, err)
			}
		}
		urls, rings = append(urls, url), append(rings, ring)
	}
	return urls, rings, nil
}

func (p *Plan) choose(ctx context.Context, cache *fetch.Cache) error {
	sources := []apk.Source{{Index: virtual()}}
	urls, rings, err := p.rings()
	if err != nil {
		return err
	}
	at := map[string]int{}
	p.Indexes = map[string]lock.Index{}
	for i, r := range p.Image.Repositories {
		b, err := readIndex(ctx, cache, urls[i])
		if err != nil {
			return fmt.Errorf("repository %s: %w", r.URL, err)
		}
		index, err := apk.ReadIndex(b, rings[i])
		if err != nil {
			return fmt.Errorf("repository %s: %w", r.URL, err)
		}
		for _, s := range index.Skipped {
			p.Notes = append(p.Notes, warning("skipped a package, its record has an unsupported field",
				"repository", r.URL, "package", s.Package, "field", s.Field))
		}
		if index, err = index.For(Arch); err != nil {
			return fmt.Errorf("repository %s: %w", r.URL, err)
		}
		locked := lock.Index{Digest: image.DigestOf(b), Written: index.Written}
		for _, pkg := range index.Packages {
			pkg.Repository = urls[i]
			locked.Newest = max(locked.Newest, pkg.BuildTime)
		}
		p.Indexes[r.URL] = locked
		at[urls[i]] = i
		sources = append(sources, apk.Source{Index: index, Tag: r.Tag})
	}
	var world []apk.Dep
	for _, name := range p.world() {
		d, err := apk.ParseDep(name)
		if err != nil {
			return err
		}
		world = append(world, d)
	}
	chosen, err := apk.Solve(world, sources)
	if err != nil {
		return fmt.Errorf("choosing packages:\n%w%s", err, p.foreignHints(sources)+p.overlayHints(sources))
	}
	for _, c := range chosen {
		if c.Arch != Arch && c.Arch != "noarch" && c.Name != virtualName {
			return fmt.Errorf("choosing packages: %s is for %s, the image for %s", c, c.Arch, Arch)
		}
		if c.Name == virtualName {
			continue
		}
		i := at[c.Repository]
		p.Packages = append(p.Packages, Package{Package: c, keys: rings[i], repository: p.Image.Repositories[i].URL,
			url: c.Repository + "/" + Arch + "/" + c.FileName()})
		p.Epoch = max(p.Epoch, c.BuildTime)
	}
	if p.Epoch == 0 {
		return errors.New("choosing packages: none of them says when it was built, so the image has no epoch")
	}
	return nil
}

// foreignHints says which names of the world the repositories have for other
// architectures alone.
func (p *Plan) foreignHints(sources []apk.Source) string {
	text := ""
	for _, name := range p.world() {
		d, err := apk.ParseDep(name)
		if err != nil {
			continue
		}
		for _, s := range sources {
			if arch := s.Index.Foreign[d.Name]; arch != "" {
				text += fmt.Sprintf("\n%s: a repository has it for %s, which images for %s cannot use", d.Name, arch, Arch)
				break
			}
		}
	}
	return text
}

// overlayHints says what to do about packages of overlays that are in no
// repository.
func (p *Plan) overlayHints(sources []apk.Source) string {
	there := map[string]bool{}
	for _, s := range sources {
		for _, pkg := range s.Index.Packages {
			there[pkg.Name] = true
		}
	}
	text := ""
	for _, o := range p.Overlays {
		for _, name := range o.Packages {
			if !there[name] && o.Hint != "" {
				text += fmt.Sprintf("\noverlay %s: no repository of the spec has %s. %s", o.Name, name, strings.TrimSpace(o.Hint))
			}
		}
	}
	return text
}

// world is what the spec and its overlays ask for, as in /etc/apk/world.
func (p *Plan) world() []string {
	world := append([]string{p.Image.Kernel.Package}, p.Image.Packages...)
	for _, o := range p.Overlays {
		for _, name := range o.Packages {
			if !slices.Contains(world, name) {
				world = append(world, name)
			}
		}
	}
	return world
}

// PackageList writes the chosen packages down, one a line.
func (p *Plan) PackageList() []byte {
	var b bytes.Buffer
	for _, pkg := range p.Packages {
		fmt.Fprintf(&b, "%s %s %s %s\n", pkg.Name, pkg.Version, pkg.Arch, pkg.Identity)
	}
	return b.Bytes()
}

// identity is everything that decides the image's bytes. Addresses and paths
// are no part of it: the same packages from another mirror are the same image.
func (p *Plan) identity() []byte {
	var b bytes.Buffer
	img := p.Image
	fmt.Fprintf(&b, "stream %s\nrelease %s\nalpine %s\nboards %s\nconsole %q\nslot-size %d\nepoch %d\n",
		img.Stream, img.Release, img.Alpine, strings.Join(img.Boards, " "), img.Console, img.SlotSize, p.Epoch)
	fmt.Fprintf(&b, "kernel %s\nwords %s\n", img.Kernel.Package, strings.Join(p.Words, " "))
	fmt.Fprintf(&b, "init %s\npikeletd %s\nsquashfs %d %s\n", image.DigestOf(p.Programs.Init), image.DigestOf(p.Programs.Agent),
		squashfs.Generation, img.Compression)
	for _, name := range slices.Sorted(maps.Keys(p.Added)) {
		fmt.Fprintf(&b, "program %s %s\n", name, image.DigestOf(p.Added[name]))
	}
	for _, level := range slices.Sorted(maps.Keys(img.Services)) {
		fmt.Fprintf(&b, "services %s %s\n", level, strings.Join(img.Services[level], " "))
	}
	for _, name := range slices.Sorted(maps.Keys(img.IDs)) {
		fmt.Fprintf(&b, "id %s %d\n", name, img.IDs[name])
	}
	for _, board := range slices.Sorted(maps.Keys(img.Config)) {
		fmt.Fprintf(&b, "config %s %q %q\n", board, img.Config[board].Lines, img.Config[board].Overlays)
	}
	for _, l := range p.Layers {
		b.WriteString(l.identity() + "\n")
	}
	for _, o := range p.Overlays {
		fmt.Fprintf(&b, "overlay %s\n", o.Digest())
	}
	if p.Inventory != nil {
		fmt.Fprintf(&b, "inventory %s\n", image.DigestOf(p.Inventory))
	}
	fmt.Fprintf(&b, "channel %q\nwatchdog %s\nsoak %s deadline %s\n", img.Channel, img.Watchdog, time.Duration(img.Health.Soak),
		time.Duration(img.Health.Deadline))
	for _, k := range p.Keys {
		fmt.Fprintf(&b, "key %s\n", image.DigestOf([]byte(k)))
	}
	b.WriteString("packages\n")
	b.Write(p.PackageList())
	return b.Bytes()
}

// Text writes the plan down for people.
func (p *Plan) Text() []byte {
	return append([]byte("build "+p.BuildID+"\n"), p.identity()...)
}
