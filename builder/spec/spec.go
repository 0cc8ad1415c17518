// Package spec reads the image spec: the YAML a person writes to say what an
// image is.
package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/disk"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// Image is an image spec. Paths in it are relative to the spec's folder.
type Image struct {
	// Name is what people call the image. Required: lower-case letters,
	// digits and dashes.
	Name string `yaml:"name"`
	// Stream is the name nodes go by: they upgrade within one stream only.
	// Default: the name.
	Stream string `yaml:"stream"`
	// Release is the image's number. Required: numbers with dots, which
	// compare number by number, 1.10 being newer than 1.9.
	Release string `yaml:"release"`
	// Boards are the families of Pi the image is for. Default: all, without
	// the virtual ones.
	Boards []string `yaml:"boards"`
	// Alpine is the release whose packages are used; {alpine} in a
	// repository's URL stands for it. Default: 3.23.
	Alpine string `yaml:"alpine"`
	// Repositories are where packages come from. Required.
	Repositories []Repository `yaml:"repositories"`
	// Packages are what the root is made of, as in /etc/apk/world. Required.
	Packages []string `yaml:"packages"`
	// Layers are laid over the packages, in this order.
	Layers []Layer `yaml:"layers"`
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
	// SlotSize is the size of each of the two slots, such as 512MiB.
	// Default: 1GiB.
	SlotSize Size `yaml:"slot-size"`

	file string
	dir  string
}

// Repository is one apk repository.
type Repository struct {
	// URL is a folder or an http(s) address, without the architecture.
	URL string `yaml:"url"`
	// Keys are files with the public keys that may sign it. Their names
	// matter: signatures call keys by file name.
	Keys []string `yaml:"keys"`
	// Tag makes its packages available only to names written NAME@TAG.
	Tag string `yaml:"tag"`
}

// Layer is one source of files.
type Layer struct {
	// Folder is a folder whose contents are laid over the root.
	Folder string `yaml:"folder"`
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
	for unit, factor := range map[string]int64{"MiB": 1 << 20, "GiB": 1 << 30} {
		if number, ok := strings.CutSuffix(n.Value, unit); ok {
			v, err := strconv.ParseInt(strings.TrimSpace(number), 10, 32)
			if err == nil && v > 0 {
				*s = Size(v * factor)
				return nil
			}
		}
	}
	return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %q is no size; write it as 512MiB or 1GiB", n.Line, n.Value)}}
}

// ConsoleRoot is the value of Console that opens it to whoever holds the
// machine.
const ConsoleRoot = "root"

// Path returns a path of the spec's as seen from where the program runs.
func (i *Image) Path(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(i.dir, p)
}

// Error is everything wrong with a spec, each with file, line and field.
type Error struct{ Problems []string }

func (e *Error) Error() string { return strings.Join(e.Problems, "\n") }

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
	img := &Image{file: file, dir: filepath.Dir(file)}
	c := &checker{file: file, lines: map[string]int{}}
	var root yaml.Node
	if err := yaml.Unmarshal(b, &root); err != nil {
		c.decoding(err)
		return nil, c.err()
	}
	if len(root.Content) > 0 {
		c.index(root.Content[0], "")
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(img); err != nil && !errors.Is(err, io.EOF) {
		c.decoding(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		c.problems = append(c.problems, problem{0, "there is more than one YAML document; want one image spec a file"})
	}
	img.defaults()
	c.check(img)
	return img, c.err()
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
	for n := range i.Repositories {
		r := &i.Repositories[n]
		r.URL = strings.TrimSuffix(strings.ReplaceAll(r.URL, "{alpine}", i.Alpine), "/")
	}
}

// checker gathers mistakes.
type checker struct {
	file     string
	lines    map[string]int // field to line
	problems []problem
}

type problem struct {
	line int
	text string
}

// index remembers the line of every field.
func (c *checker) index(n *yaml.Node, field string) {
	c.lines[field] = n.Line
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := strings.TrimPrefix(field+"."+n.Content[i].Value, ".")
			c.index(n.Content[i+1], name)
			c.lines[name] = n.Content[i].Line
		}
	case yaml.SequenceNode:
		for i, e := range n.Content {
			c.index(e, fmt.Sprintf("%s[%d]", field, i))
		}
	}
}

// unknownField is how the YAML library words a key it has no field for.
var unknownField = regexp.MustCompile(`^line (\d+): field (\S+) not found in type \S+$`)

func (c *checker) decoding(err error) {
	var te *yaml.TypeError
	texts := []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	if errors.As(err, &te) {
		texts = te.Errors
	}
	for _, t := range texts {
		if m := unknownField.FindStringSubmatch(t); m != nil {
			line, _ := strconv.Atoi(m[1])
			c.problems = append(c.problems, problem{line, m[2] + ": there is no such field; is it misspelt or indented wrongly?"})
			continue
		}
		line := 0
		if rest, ok := strings.CutPrefix(t, "line "); ok {
			number, text, _ := strings.Cut(rest, ": ")
			if n, err := strconv.Atoi(number); err == nil {
				line, t = n, text
			}
		}
		c.problems = append(c.problems, problem{line, t})
	}
}

func (c *checker) add(field, format string, args ...any) {
	line := c.lines[field]
	for up := field; line == 0 && up != ""; line = c.lines[up] {
		i := strings.LastIndexAny(up, ".[")
		if i < 0 {
			break
		}
		up = up[:i]
	}
	c.problems = append(c.problems, problem{line, field + ": " + fmt.Sprintf(format, args...)})
}

func (c *checker) err() error {
	if len(c.problems) == 0 {
		return nil
	}
	sort.SliceStable(c.problems, func(i, j int) bool { return c.problems[i].line < c.problems[j].line })
	e := &Error{}
	for _, p := range c.problems {
		place := c.file
		if p.line > 0 {
			place += ":" + strconv.Itoa(p.line)
		}
		e.Problems = append(e.Problems, place+": "+p.text)
	}
	return e
}

var (
	nameForm    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	releaseForm = regexp.MustCompile(`^\d{1,9}(\.\d{1,9}){0,3}$`)
)

// maxConfigLine is what old firmware reads of a line of config.txt; the rest
// is dropped without a word (FACTS 1.3).
const maxConfigLine = 78

func (c *checker) check(i *Image) {
	if !nameForm.MatchString(i.Name) {
		c.add("name", "%q: want lower-case letters, digits and dashes, such as homelab", i.Name)
	}
	if !nameForm.MatchString(i.Stream) && i.Stream != i.Name {
		c.add("stream", "%q: want lower-case letters, digits and dashes", i.Stream)
	}
	if !releaseForm.MatchString(i.Release) {
		c.add("release", "%q: want numbers with dots, such as 1.0", i.Release)
	}
	if !regexp.MustCompile(`^\d+\.\d+$`).MatchString(i.Alpine) {
		c.add("alpine", "%q: want an Alpine release, such as 3.23 (in quotes, or YAML reads a number)", i.Alpine)
	}
	for n, b := range i.Boards {
		if _, err := boards.Find(b); err != nil {
			c.add(fmt.Sprintf("boards[%d]", n), "%v", err)
		}
	}
	c.checkSources(i)
	for level := range i.Services {
		switch level {
		case "sysinit", "boot", "default", "shutdown":
		default:
			c.add("services."+level, "no such runlevel; there are sysinit, boot, default and shutdown")
		}
	}
	for n, w := range i.Kernel.Words {
		if w == "" || strings.ContainsAny(w, " \t\n\"") {
			c.add(fmt.Sprintf("kernel.words[%d]", n), "%q: one word each, without blanks or quotes", w)
		}
	}
	c.checkConfig(i)
	if i.Console != "" && i.Console != ConsoleRoot {
		c.add("console", "%q: want root, or nothing for a console without a way in", i.Console)
	}
	if s := int64(i.SlotSize); s < 34*disk.MiB || s > 64<<30 || s%disk.MiB != 0 {
		c.add("slot-size", "%d MiB: want at least 34MiB and at most 64GiB", s/disk.MiB)
	}
}

func (c *checker) checkSources(i *Image) {
	if len(i.Repositories) == 0 {
		c.add("repositories", "none; name at least one, with url and keys")
	}
	for n, r := range i.Repositories {
		field := fmt.Sprintf("repositories[%d]", n)
		if r.URL == "" {
			c.add(field+".url", "missing; want a folder or an http(s) address")
		}
		if len(r.Keys) == 0 {
			c.add(field+".keys", "missing; name the public keys that may sign it, such as Alpine's from /etc/apk/keys")
		}
		for k, key := range r.Keys {
			if _, err := os.Stat(i.Path(key)); err != nil {
				c.add(fmt.Sprintf("%s.keys[%d]", field, k), "no file %s", key)
			}
		}
	}
	if len(i.Packages) == 0 {
		c.add("packages", "none; alpine-base and openrc are the least")
	}
	for n, p := range i.Packages {
		if _, err := apk.ParseDep(p); err != nil {
			c.add(fmt.Sprintf("packages[%d]", n), "%v", err)
		}
	}
	for n, l := range i.Layers {
		field := fmt.Sprintf("layers[%d]", n)
		if l.Folder == "" {
			c.add(field, "want folder: PATH")
		} else if st, err := os.Stat(i.Path(l.Folder)); err != nil || !st.IsDir() {
			c.add(field+".folder", "no folder %s", l.Folder)
		}
	}
}

func (c *checker) checkConfig(i *Image) {
	var names []string
	for name := range i.Config {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if _, err := boards.Find(name); err != nil && name != "all" {
			c.add("config."+name, "%v, or all", err)
		}
		cfg := i.Config[name]
		for n, l := range cfg.Lines {
			c.checkLine(fmt.Sprintf("config.%s.lines[%d]", name, n), l)
		}
		for n, o := range cfg.Overlays {
			c.checkLine(fmt.Sprintf("config.%s.overlays[%d]", name, n), "dtoverlay="+o)
		}
	}
}

func (c *checker) checkLine(field, l string) {
	switch {
	case len(l) > maxConfigLine:
		c.add(field, "%d characters; the firmware drops what is behind the %dth", len(l), maxConfigLine)
	case strings.ContainsAny(l, "\n\r") || strings.HasPrefix(l, "["):
		c.add(field, "%q: want a single line, without a section of its own", l)
	}
	for _, own := range []string{"kernel=", "initramfs", "cmdline=", "arm_64bit=", "os_prefix=", "include"} {
		if strings.HasPrefix(l, own) {
			c.add(field, "%s is the builder's to write", strings.TrimSuffix(own, "="))
		}
	}
}
