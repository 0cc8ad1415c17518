package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pikelet-os/pikelet/builder/device"
	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/builder/squashfs"
	"github.com/pikelet-os/pikelet/initramfs/cmdline"
	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/apk"
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
	Folders  []Folder
	Programs device.Programs
	Words    []string // kernel words, without the slot's
	Keys     []string // PEM public keys that may sign
	Epoch    int64    // the newest package's build time
	BuildID  string
}

// Package is a chosen package and where it is.
type Package struct {
	*apk.Package
	url  string
	keys apk.Keyring
}

// Folder is a folder layer by its contents.
type Folder struct {
	Name   string // as the spec says it
	Digest string
}

// Resolve reads the repositories' indexes and pins every input of the build.
// keys are the public keys that images of this spec may be signed with.
func Resolve(ctx context.Context, img *spec.Image, cache *fetch.Cache, programs device.Programs, keys []string) (*Plan, error) {
	p := &Plan{Image: img, Programs: programs, Keys: keys, Words: append(cmdline.Base(), img.Kernel.Words...)}
	if err := p.choose(ctx, cache); err != nil {
		return nil, err
	}
	for _, l := range img.Layers {
		f, err := layers.OpenFolder(img.Path(l.Folder))
		if err != nil {
			return nil, err
		}
		digest, err := f.Digest()
		if err != nil {
			return nil, err
		}
		p.Folders = append(p.Folders, Folder{l.Folder, digest})
	}
	sum := sha256.Sum256(p.identity())
	p.BuildID = hex.EncodeToString(sum[:16])
	return p, nil
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

func (p *Plan) choose(ctx context.Context, cache *fetch.Cache) error {
	sources := []apk.Source{{Index: virtual()}}
	rings := map[string]apk.Keyring{}
	for _, r := range p.Image.Repositories {
		url := r.URL
		if !fetch.IsRemote(url) {
			url = p.Image.Path(url)
		}
		ring := apk.Keyring{}
		for _, k := range r.Keys {
			b, err := os.ReadFile(p.Image.Path(k))
			if err != nil {
				return err
			}
			if err := ring.Add(filepath.Base(k), b); err != nil {
				return err
			}
		}
		b, err := cache.Read(ctx, url+"/"+Arch+"/APKINDEX.tar.gz", maxIndexFile)
		if err != nil {
			return fmt.Errorf("repository %s: %w", r.URL, err)
		}
		index, err := apk.ReadIndex(b, ring)
		if err != nil {
			return fmt.Errorf("repository %s: %w", r.URL, err)
		}
		for _, pkg := range index.Packages {
			pkg.Repository = url
		}
		rings[url] = ring
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
		return fmt.Errorf("choosing packages:\n%w", err)
	}
	for _, c := range chosen {
		if c.Name == virtualName {
			continue
		}
		p.Packages = append(p.Packages, Package{Package: c, keys: rings[c.Repository],
			url: c.Repository + "/" + Arch + "/" + c.FileName()})
		p.Epoch = max(p.Epoch, c.BuildTime)
	}
	if p.Epoch == 0 {
		return errors.New("choosing packages: none of them says when it was built, so the image has no epoch")
	}
	return nil
}

// world is what the spec asks for, as in /etc/apk/world.
func (p *Plan) world() []string {
	return append([]string{p.Image.Kernel.Package}, p.Image.Packages...)
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
	fmt.Fprintf(&b, "init %s\npikeletd %s\nsquashfs %d\n", artifact.DigestOf(p.Programs.Init), artifact.DigestOf(p.Programs.Agent), squashfs.Generation)
	for _, level := range sortedKeys(img.Services) {
		fmt.Fprintf(&b, "services %s %s\n", level, strings.Join(img.Services[level], " "))
	}
	for _, name := range sortedKeys(img.IDs) {
		fmt.Fprintf(&b, "id %s %d\n", name, img.IDs[name])
	}
	for _, board := range sortedKeys(img.Config) {
		fmt.Fprintf(&b, "config %s %q %q\n", board, img.Config[board].Lines, img.Config[board].Overlays)
	}
	for _, f := range p.Folders {
		fmt.Fprintf(&b, "folder %s\n", f.Digest)
	}
	for _, k := range p.Keys {
		fmt.Fprintf(&b, "key %s\n", artifact.DigestOf([]byte(k)))
	}
	b.WriteString("packages\n")
	b.Write(p.PackageList())
	return b.Bytes()
}

// Text writes the plan down for people.
func (p *Plan) Text() []byte {
	return append([]byte("build "+p.BuildID+"\n"), p.identity()...)
}
