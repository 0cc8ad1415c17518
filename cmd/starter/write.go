package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/layers/apk"
)

// write signs and writes the packages and the index, beside an earlier
// repository and then in its place.
func write(dir string, builds []*build, log io.Writer) error {
	key, err := signingKey(dir)
	if err != nil {
		return err
	}
	final := filepath.Join(dir, arch)
	out := final + ".new"
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	names := map[string]string{} // soname to package
	for _, b := range builds {
		for _, so := range b.sonames() {
			names[so] = b.name
		}
	}
	index := &apk.Index{Description: "Pikelet starter: Debian's packages under Alpine's names, for trying and testing"}
	for _, b := range builds {
		p, files, err := b.finish(names)
		if err != nil {
			return fmt.Errorf("package %s: %w", b.name, err)
		}
		f, err := os.Create(filepath.Join(out, p.FileName()))
		if err != nil {
			return err
		}
		record, err := apk.WritePackage(f, p, files, key)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
		index.Packages = append(index.Packages, record)
	}
	b, err := apk.WriteIndex(index, key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "APKINDEX.tar.gz"), b, 0o644); err != nil {
		return err
	}
	if err := os.RemoveAll(final); err != nil {
		return err
	}
	fmt.Fprintf(log, "%d packages in %s\nThis repository is for trying and testing: do not run nodes you rely on from it.\n",
		len(index.Packages), final)
	return os.Rename(out, final)
}

// finish turns a build into what the package writer takes.
func (b *build) finish(names map[string]string) (apk.Package, []apk.File, error) {
	p := apk.Package{Name: b.name, Version: b.version, Arch: arch, Description: b.description,
		Origin: b.origin, License: "see Debian's package", URL: "https://www.debian.org/"}
	var err error
	if p.Depends, err = apk.ParseDeps(b.depends + " " + b.needs(names)); err != nil {
		return p, nil, err
	}
	provides := b.provides
	for _, so := range b.sonames() {
		provides += " so:" + so + "=" + soVersion(so)
	}
	if p.Provides, err = apk.ParseDeps(provides); err != nil {
		return p, nil, err
	}
	if p.InstallIf, err = apk.ParseDeps(b.installIf); err != nil {
		return p, nil, err
	}
	newest := int64(0)
	for _, f := range b.files {
		if !f.ModTime.IsZero() {
			newest = max(newest, f.ModTime.Unix())
		}
	}
	if newest == 0 {
		newest = recipeTime
	}
	p.BuildTime = newest
	return p, b.apkFiles(newest), nil
}

// apkFiles returns the files with their directories before them.
func (b *build) apkFiles(at int64) []apk.File {
	for name := range b.files {
		for d := path.Dir(name); d != "."; d = path.Dir(d) {
			if b.files[d] == nil {
				b.files[d] = &file{Header: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}
			}
		}
	}
	var list []apk.File
	for name, f := range b.files {
		h := f.Header
		h.Name = name
		h.Size = int64(len(f.content))
		h.ModTime = time.Unix(at, 0)
		content := f.content
		list = append(list, apk.File{Header: &h, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }})
	}
	return list
}

// sonames returns the libraries the package offers.
func (b *build) sonames() []string { return b.elfStrings(elf.DT_SONAME) }

// needs returns so: dependencies on libraries that other packages here offer.
func (b *build) needs(names map[string]string) string {
	var deps []string
	for _, so := range b.elfStrings(elf.DT_NEEDED) {
		if by := names[so]; by != "" && by != b.name {
			deps = append(deps, "so:"+so)
		}
	}
	return strings.Join(deps, " ")
}

func (b *build) elfStrings(tag elf.DynTag) []string {
	found := map[string]bool{}
	for name, f := range b.files {
		if f.Typeflag != tar.TypeReg || !bytes.HasPrefix(f.content, []byte(elf.ELFMAG)) || strings.Contains(name, ".ko") {
			continue
		}
		e, err := elf.NewFile(bytes.NewReader(f.content))
		if err != nil {
			continue
		}
		list, err := e.DynString(tag)
		if err != nil {
			continue
		}
		for _, s := range list {
			found[s] = true
		}
	}
	var list []string
	for s := range found {
		list = append(list, s)
	}
	sort.Strings(list)
	return list
}

// soVersion returns the version a soname is provided with: the number behind
// .so., or 0.
func soVersion(so string) string {
	_, v, _ := strings.Cut(so, ".so.")
	if !apk.ValidVersion(v) {
		return "0"
	}
	return v
}

// keyName is what the repository's key is called: Alpine's way, a name that
// says whose it is.
const keyName = "starter.rsa.pub"

// signingKey returns the repository's key, made on first use. It signs no
// more than this directory.
func signingKey(dir string) (*apk.Key, error) {
	key, err := apk.OpenKey(filepath.Join(dir, "starter.rsa"), keyName)
	if err != nil {
		return nil, err
	}
	pub, err := key.Public()
	if err != nil {
		return nil, err
	}
	return key, os.WriteFile(filepath.Join(dir, keyName), pub, 0o644)
}
