// Package kmod knows what kernel modules need: it reads their .modinfo, puts
// them in the order they load in, and writes what depmod would.
package kmod

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Module is one loadable module.
type Module struct {
	Name    string // with underscores, as the kernel says it
	Path    string // below /lib/modules/RELEASE, as modules.dep says it
	Depends []string
	Soft    []string // softdep pre:, loaded before if there
	Aliases []string
}

// maxModule bounds a decompressed module. The largest in Debian's 6.12 arm64
// kernel, amdgpu, has 20 MiB.
const maxModule = 64 << 20

// NameOf returns a module's name from a file name, or "" where it is none.
func NameOf(file string) string {
	base := path.Base(file)
	for _, end := range []string{".ko", ".ko.xz", ".ko.gz", ".ko.zst"} {
		if name, ok := strings.CutSuffix(base, end); ok {
			return canonical(name)
		}
	}
	return ""
}

// canonical spells a name as the kernel does: dashes are underscores.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// Decompress returns the ELF object of a module file, by its suffix.
func Decompress(file string, b []byte) ([]byte, error) {
	var r io.Reader
	var err error
	switch path.Ext(file) {
	case ".xz":
		r, err = xz.NewReader(bytes.NewReader(b))
	case ".gz":
		r, err = gzip.NewReader(bytes.NewReader(b))
	case ".zst":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1)); err == nil {
			defer d.Close()
			r = d
		}
	default:
		return b, nil
	}
	if err == nil {
		b, err = io.ReadAll(io.LimitReader(r, maxModule+1))
	}
	if err == nil && len(b) > maxModule {
		err = fmt.Errorf("more than %d bytes", maxModule)
	}
	if err != nil {
		return nil, fmt.Errorf("decompressing module %q: %w", file, err)
	}
	return b, nil
}

// Read parses a decompressed module.
func Read(file string, b []byte) (*Module, error) {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("reading module %q: %w", file, err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("reading module %q: no .modinfo section", file)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("reading module %q: %w", file, err)
	}
	m := &Module{Name: NameOf(file), Path: file}
	for _, field := range strings.Split(string(info), "\x00") {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "depends":
			for _, d := range strings.Split(value, ",") {
				if d != "" {
					m.Depends = append(m.Depends, canonical(d))
				}
			}
		case "alias":
			m.Aliases = append(m.Aliases, value)
		case "softdep":
			pre, ok := strings.CutPrefix(value, "pre:")
			if ok {
				pre, _, _ = strings.Cut(pre, "post:")
				for _, d := range strings.Fields(pre) {
					m.Soft = append(m.Soft, canonical(d))
				}
			}
		}
	}
	return m, nil
}

// Set is the modules of one kernel.
type Set struct {
	Modules map[string]*Module
	Builtin map[string]bool // names compiled into the kernel
}

// ParseBuiltin reads modules.builtin.
func ParseBuiltin(b []byte) map[string]bool {
	names := map[string]bool{}
	for _, line := range strings.Fields(string(b)) {
		if name := NameOf(line); name != "" {
			names[name] = true
		}
	}
	return names
}

// Has reports whether the kernel can do what the named module does.
func (s *Set) Has(name string) bool {
	name = canonical(name)
	return s.Builtin[name] || s.Modules[name] != nil
}

// Order returns the modules that the named ones need, each after what it
// needs itself, built-in ones left out. A name the kernel knows neither as a
// module nor as built in is an error.
func (s *Set) Order(names ...string) ([]*Module, error) {
	var list []*Module
	state := map[string]int{} // 1 being visited, 2 done
	var visit func(name, by string) error
	visit = func(name, by string) error {
		name = canonical(name)
		m := s.Modules[name]
		switch {
		case state[name] == 2 || m == nil && s.Builtin[name]:
			return nil
		case state[name] == 1:
			return fmt.Errorf("kernel modules need one another in a circle at %q", name)
		case m == nil && by != "":
			return fmt.Errorf("the kernel has no module %q, which %q needs", name, by)
		case m == nil:
			return fmt.Errorf("the kernel has no module %q", name)
		}
		state[name] = 1
		for _, d := range m.Soft {
			if s.Modules[d] != nil && state[d] == 0 {
				if err := visit(d, name); err != nil {
					return err
				}
			}
		}
		for _, d := range m.Depends {
			if err := visit(d, name); err != nil {
				return err
			}
		}
		state[name] = 2
		list = append(list, m)
		return nil
	}
	for _, name := range names {
		if err := visit(name, ""); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Dep returns modules.dep: every module's file and, behind it, the files it
// needs, in the order modprobe unloads them. Busybox and kmod both read it.
func (s *Set) Dep() ([]byte, error) {
	var b bytes.Buffer
	for _, m := range s.sorted() {
		order, err := s.Order(m.Name)
		if err != nil {
			return nil, err
		}
		b.WriteString(m.Path + ":")
		for i := len(order) - 1; i >= 0; i-- {
			if order[i] != m && slices.Contains(s.hard(m), order[i].Name) {
				b.WriteString(" " + order[i].Path)
			}
		}
		b.WriteByte('\n')
	}
	return b.Bytes(), nil
}

// hard returns the names m needs, directly or not, soft dependencies left out.
func (s *Set) hard(m *Module) []string {
	var names []string
	for _, d := range m.Depends {
		if next := s.Modules[d]; next != nil && !slices.Contains(names, d) {
			names = append(names, d)
			names = append(names, s.hard(next)...)
		}
	}
	return names
}

// Alias returns modules.alias, through which the kernel's requests find
// modules.
func (s *Set) Alias() []byte {
	var b bytes.Buffer
	b.WriteString("# Aliases extracted from modules themselves.\n")
	for _, m := range s.sorted() {
		for _, a := range m.Aliases {
			fmt.Fprintf(&b, "alias %s %s\n", a, m.Name)
		}
	}
	return b.Bytes()
}

func (s *Set) sorted() []*Module {
	list := make([]*Module, 0, len(s.Modules))
	for _, m := range s.Modules {
		list = append(list, m)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Path < list[j].Path })
	return list
}
