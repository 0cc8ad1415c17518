// Package overlays holds the bundles that are applied over the layers of an image:
// packages, files, services, kernel modules, sysctls and k3s manifests under one
// name. Some are embedded, among them the base, which is part of every image;
// others are directories of the user.
package overlays

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v3"
)

//go:embed all:backup all:base all:chrony all:iscsi all:k3s all:luks all:metallb all:rollout all:seed-node all:ssh all:wifi
var embedded embed.FS

// Overlay is one bundle.
type Overlay struct {
	Name        string `yaml:"-"`
	Embedded    bool   `yaml:"-"` // part of pikelet itself
	Description string `yaml:"description"`
	// Packages are added to those of the spec. They are templates over the
	// parameters; empty results are dropped.
	Packages []string `yaml:"packages"`
	// Hint is the advice for a package of the overlay that no repository has.
	Hint string `yaml:"hint"`
	// Fetch are files from elsewhere, each pinned by its digest.
	Fetch []Fetch `yaml:"fetch"`
	// Images are container images, by digest, that the manifests run: a list
	// of them goes beside the archives that k3s imports.
	Images []string `yaml:"images"`
	// Programs are programs of pikelet itself for nodes, by name, which go to
	// /usr/sbin. They are part of the pikelet command.
	Programs []string `yaml:"programs"`
	// Services are enabled, by runlevel. Optional ones are enabled where
	// their scripts are in the tree.
	Services map[string][]string `yaml:"services"`
	Optional map[string][]string `yaml:"optional-services"`
	// Modules are loaded and Sysctls are set on boot.
	Modules []string          `yaml:"modules"`
	Sysctls map[string]string `yaml:"sysctls"`
	// Kernel are options the kernel must have, without CONFIG_.
	Kernel []string `yaml:"kernel"`
	// KernelWants are options that the kernel may lack, with a warning of the
	// build. WantedFor names what does not work without them.
	KernelWants []string `yaml:"kernel-wants"`
	WantedFor   string   `yaml:"wanted-for"`
	// Parameters may be set by the spec, under with:.
	Parameters map[string]Parameter `yaml:"parameters"`

	// Files are added to the tree, by path, with parameters filled in: owned by
	// root, with mode 0755 if they begin with #!, else 0644. Manifests are
	// applied by k3s.
	Files     map[string][]byte `yaml:"-"`
	Manifests map[string][]byte `yaml:"-"`
}

// Parameter is a parameter of an overlay.
type Parameter struct {
	Description string  `yaml:"description"`
	Default     *string `yaml:"default"` // nil makes the parameter required
	Pattern     string  `yaml:"pattern"` // a regular expression for all of the value
}

// Fetch is a file from elsewhere that becomes part of the root. Its fields are
// templates over the parameters; one without an address is left out.
type Fetch struct {
	// URL is an http(s) address, or a file.
	URL string `yaml:"url"`
	// SHA256 is the file's digest, 64 hexadecimal digits, with sha256: before them
	// or without.
	SHA256 string `yaml:"sha256"`
	// To is the file's path in the root, or the directory it is unpacked to.
	To string `yaml:"to"`
	// Mode is the permissions of a file, such as 0755. Default: 0644.
	Mode string `yaml:"mode"`
	// Unpack is tar, or k3s: what a release of k3s would unpack on its first
	// start. Default: the file goes in as it is.
	Unpack string `yaml:"unpack"`
}

// Base returns the bundle of every image.
func Base() (Overlay, error) { return Find("base", "", nil) }

// Names returns the embedded overlays' names.
func Names() []string {
	entries, err := embedded.ReadDir(".")
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Find returns an overlay with the parameters with: an embedded one by its name, or
// the one in the directory dir.
func Find(name, dir string, with map[string]string) (Overlay, error) {
	var from fs.FS
	inside := false
	if st, err := fs.Stat(embedded, name); err == nil && st.IsDir() {
		sub, err := fs.Sub(embedded, name)
		if err != nil {
			return Overlay{}, err
		}
		from, inside = sub, true
	} else if st, err := os.Stat(dir); err == nil && st.IsDir() {
		from = os.DirFS(dir)
	} else {
		return Overlay{}, fmt.Errorf("overlay %q: not found among the built-in ones (%s) or in directory %s", name, strings.Join(Names(),
			", "), dir)
	}
	o, err := load(from, name, with)
	o.Embedded = inside
	if err != nil {
		return o, fmt.Errorf("overlay %q: %w", name, err)
	}
	return o, nil
}

func load(from fs.FS, name string, with map[string]string) (Overlay, error) {
	o := Overlay{Name: name}
	b, err := fs.ReadFile(from, "overlay.yaml")
	if err != nil {
		return o, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&o); err != nil {
		return o, fmt.Errorf("overlay.yaml: %w", err)
	}
	values, err := o.values(with)
	if err != nil {
		return o, err
	}
	if err := o.expand(values); err != nil {
		return o, err
	}
	if o.Files, err = read(from, "files", values); err != nil {
		return o, err
	}
	o.Manifests, err = read(from, "manifests", values)
	return o, err
}

// values returns the value of every parameter. Its error has all mistakes.
func (o *Overlay) values(with map[string]string) (map[string]string, error) {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(with)) {
		if _, known := o.Parameters[name]; !known {
			errs = append(errs, fmt.Errorf("with.%s: it has no such parameter; it has: %s",
				name, strings.Join(slices.Sorted(maps.Keys(o.Parameters)), ", ")))
		}
	}
	values := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(o.Parameters)) {
		p := o.Parameters[name]
		value, given := with[name]
		if !given {
			if p.Default == nil {
				errs = append(errs, fmt.Errorf("with.%s: missing: %s", name, p.Description))
				continue
			}
			value = *p.Default
		}
		form, err := regexp.Compile("^(?:" + p.Pattern + ")$")
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("overlay.yaml: parameters.%s.pattern: %w", name, err))
		case p.Pattern != "" && !form.MatchString(value):
			errs = append(errs, fmt.Errorf("with.%s: %q does not fit: %s (%s)", name, value, p.Description, p.Pattern))
		}
		values[name] = value
	}
	return values, errors.Join(errs...)
}

// expand fills the parameters into the fields that are templates.
func (o *Overlay) expand(values map[string]string) error {
	var errs []error
	fill := func(field, text string) string {
		out, err := fillIn(field, text, values)
		errs = append(errs, err)
		return strings.TrimSpace(string(out))
	}
	list := func(field string, in []string) (out []string) {
		for _, text := range in {
			if text = fill(field, text); text != "" {
				out = append(out, text)
			}
		}
		return out
	}
	o.Packages, o.Images = list("packages", o.Packages), list("images", o.Images)
	var files []Fetch
	for i, f := range o.Fetch {
		at := fmt.Sprintf("fetch[%d]", i)
		f.URL, f.SHA256, f.To, f.Mode = fill(at, f.URL), fill(at, f.SHA256), fill(at, f.To), fill(at, f.Mode)
		if f.URL == "" {
			continue
		}
		f.SHA256 = plainDigest(f.SHA256)
		if !digestForm.MatchString(f.SHA256) {
			errs = append(errs, fmt.Errorf("%s: %s has no sha256 of 64 hexadecimal digits, which pins what is fetched", at, f.URL))
		}
		if to := strings.TrimSuffix(f.To, "/"); !fs.ValidPath(to) || to == "." && f.Unpack != UnpackTar {
			errs = append(errs, fmt.Errorf("%s: to: %q: want a path in the root, without / in front and without . or .. in it", at, f.To))
		}
		if f.Unpack != "" && f.Unpack != UnpackTar && f.Unpack != UnpackK3s {
			errs = append(errs, fmt.Errorf("%s: unpack: %q: want tar or k3s", at, f.Unpack))
		}
		files = append(files, f)
	}
	o.Fetch = files
	for _, image := range o.Images {
		if !imageForm.MatchString(image) {
			errs = append(errs, fmt.Errorf("images: %q: want a reference with its digest, NAME@sha256:...", image))
		}
	}
	return errors.Join(errs...)
}

// plainDigest returns a SHA-256 as it is compared: release pages of GitHub write
// sha256: before it, and PowerShell writes it in upper case.
func plainDigest(s string) string { return strings.TrimPrefix(strings.ToLower(s), "sha256:") }

// Values of Fetch.Unpack.
const (
	UnpackTar = "tar"
	UnpackK3s = "k3s"
)

var (
	digestForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
	imageForm  = regexp.MustCompile(`^[a-z0-9.:/_-]+@sha256:[0-9a-f]{64}$`)
)

// fillIn fills parameters into a template.
func fillIn(name, text string, values map[string]string) ([]byte, error) {
	t, err := template.New(name).Option("missingkey=error").Funcs(template.FuncMap{"lines": lines}).Parse(text)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, values)
	return out.Bytes(), err
}

// lines splits a list in one text: at commas, blanks and line ends.
func lines(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
}

// read reads the files of a directory, which need not be there. One whose name
// ends in .tmpl is a template over the parameters, and loses the ending.
func read(from fs.FS, dir string, values map[string]string) (map[string][]byte, error) {
	files := map[string][]byte{}
	if _, err := fs.Stat(from, dir); errors.Is(err, fs.ErrNotExist) {
		return files, nil
	}
	err := fs.WalkDir(from, dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is no plain file", p)
		}
		b, err := fs.ReadFile(from, p)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(p, dir+"/")
		if short, is := strings.CutSuffix(name, ".tmpl"); is {
			if b, err = fillIn(name, string(b), values); err != nil {
				return err
			}
			name = short
		}
		files[name] = b
		return nil
	})
	return files, err
}

// Paths of an overlay's parts in the root.
const (
	modulesFolder   = "etc/modules-load.d/"
	sysctlFolder    = "etc/sysctl.d/"
	ManifestsFolder = "usr/lib/pikelet/manifests/"
	ImagesFolder    = "usr/share/k3s/images/"
)

// Tree returns all files that the overlay adds to the tree, by path.
func (o Overlay) Tree() map[string][]byte {
	all := map[string][]byte{}
	for name, b := range o.Files {
		all[name] = b
	}
	for name, b := range o.Manifests {
		all[ManifestsFolder+path.Base(o.Name)+"-"+name] = b
	}
	if len(o.Images) > 0 {
		all[ImagesFolder+path.Base(o.Name)+".txt"] = []byte(strings.Join(o.Images, "\n") + "\n")
	}
	if len(o.Modules) > 0 {
		all[modulesFolder+path.Base(o.Name)+".conf"] = []byte(strings.Join(o.Modules, "\n") + "\n")
	}
	if len(o.Sysctls) > 0 {
		var b strings.Builder
		for _, key := range slices.Sorted(maps.Keys(o.Sysctls)) {
			b.WriteString(key + " = " + o.Sysctls[key] + "\n")
		}
		all[sysctlFolder+path.Base(o.Name)+".conf"] = []byte(b.String())
	}
	return all
}

// Digest returns a hash of everything that the overlay, with its parameters, adds to
// an image.
func (o Overlay) Digest() string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q\n", o.Packages, o.Modules, o.Kernel)
	if len(o.KernelWants) > 0 {
		fmt.Fprintf(h, "%q %q\n", o.KernelWants, o.WantedFor)
	}
	if len(o.Programs) > 0 {
		fmt.Fprintf(h, "programs %q\n", o.Programs)
	}
	for _, services := range []map[string][]string{o.Services, o.Optional} {
		for _, level := range slices.Sorted(maps.Keys(services)) {
			fmt.Fprintf(h, "%s %q\n", level, services[level])
		}
		fmt.Fprintln(h)
	}
	for _, f := range o.Fetch {
		fmt.Fprintf(h, "fetch %s %q %q %q\n", f.SHA256, f.To, f.Mode, f.Unpack)
	}
	tree := o.Tree()
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		fmt.Fprintf(h, "%q %d %x\n", name, len(tree[name]), sha256.Sum256(tree[name]))
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// Clash returns an error for each file, sysctl and runlevel of a service that two of
// the overlays set.
func Clash(list []Overlay) error {
	var errs []error
	by := map[string]string{}
	claim := func(o Overlay, what, key, value string) {
		if other, taken := by[what+" "+key]; taken {
			name, old, _ := strings.Cut(other, "\n")
			if old != value {
				errs = append(errs, fmt.Errorf("the overlays %s and %s clash: both have the %s %s", name, o.Name, what, key))
			}
			return
		}
		by[what+" "+key] = o.Name + "\n" + value
	}
	for _, o := range list {
		tree := o.Tree()
		for _, name := range slices.Sorted(maps.Keys(tree)) {
			claim(o, "file", "/"+name, string(tree[name]))
		}
		for _, key := range slices.Sorted(maps.Keys(o.Sysctls)) {
			claim(o, "sysctl", key, o.Sysctls[key])
		}
		for _, level := range slices.Sorted(maps.Keys(o.Services)) {
			for _, s := range o.Services[level] {
				claim(o, "service", s, level)
			}
		}
	}
	return errors.Join(errs...)
}
