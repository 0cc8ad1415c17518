package kmod

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func set() *Set {
	s := &Set{Modules: map[string]*Module{}, Builtin: map[string]bool{"core": true}}
	for _, m := range []*Module{
		{Name: "a", Path: "kernel/a.ko.xz", Depends: []string{"b", "core"}, Soft: []string{"s", "gone"}, Aliases: []string{"pci:x"}},
		{Name: "b", Path: "kernel/b.ko.xz", Depends: []string{"c"}},
		{Name: "c", Path: "kernel/c.ko.xz"},
		{Name: "s", Path: "kernel/s.ko.xz"},
		{Name: "x", Path: "kernel/x.ko.xz", Depends: []string{"y"}},
		{Name: "y", Path: "kernel/y.ko.xz", Depends: []string{"x"}},
		{Name: "z", Path: "kernel/z.ko.xz", Depends: []string{"ghost"}},
	} {
		s.Modules[m.Name] = m
	}
	return s
}

func TestOrder(t *testing.T) {
	list, err := set().Order("a", "core", "c")
	var names []string
	for _, m := range list {
		names = append(names, m.Name)
	}
	if got := strings.Join(names, " "); err != nil || got != "s c b a" {
		t.Errorf("%q, %v; want s c b a", got, err)
	}
	for name, want := range map[string]string{"x": "circle", "z": "no module \"ghost\", which \"z\" needs",
		"nothing": "no module \"nothing\""} {
		if _, err := set().Order(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

func TestDepAndAlias(t *testing.T) {
	s := set()
	for _, bad := range []string{"x", "y", "z"} {
		delete(s.Modules, bad)
	}
	dep, err := s.Dep()
	want := "kernel/a.ko.xz: kernel/b.ko.xz kernel/c.ko.xz\nkernel/b.ko.xz: kernel/c.ko.xz\nkernel/c.ko.xz:\nkernel/s.ko.xz:\n"
	if err != nil || string(dep) != want {
		t.Errorf("got\n%swant\n%s(%v)", dep, want, err)
	}
	if got := string(s.Alias()); !strings.HasSuffix(got, "alias pci:x a\n") {
		t.Errorf("aliases:\n%s", got)
	}
}

func TestNameOf(t *testing.T) {
	for file, want := range map[string]string{"kernel/dm-verity.ko.xz": "dm_verity", "x.ko": "x", "a/b.ko.zst": "b", "modules.dep": "",
		"x.ko.old": ""} {
		if got := NameOf(file); got != want {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, b []byte) { Read("x.ko", b) })
}

// TestKmodReadsTheIndexes lets kmod's modprobe find modules with the .bin
// files alone.
func TestKmodReadsTheIndexes(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs modprobe")
	}
	s := set()
	for _, bad := range []string{"x", "y", "z"} {
		delete(s.Modules, bad)
	}
	s.Modules["ab_c"] = &Module{Name: "ab_c", Path: "kernel/ab-c.ko", Aliases: []string{"of:N*T*Cbrcm,x-y[0-9]C*", "pci:xylophone"}}
	files, err := s.Indexes()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/lib/modules/1.0/kernel", 0o755); err != nil {
		t.Fatal(err)
	}
	files["modules.softdep"] = s.SoftDep()
	for _, m := range s.Modules {
		files[m.Path] = nil // modprobe wants them to be there
	}
	for name, b := range files {
		if err := os.WriteFile(dir+"/lib/modules/1.0/"+name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"a":                         "c.ko.xz b.ko.xz s.ko.xz a.ko.xz",
		"b":                         "c.ko.xz b.ko.xz",
		"ab-c":                      "ab-c.ko",
		"pci:x":                     "c.ko.xz b.ko.xz s.ko.xz a.ko.xz",
		"pci:xylophone":             "ab-c.ko",
		"of:NfooT(null)Cbrcm,x-y7":  "",
		"of:NfooT(null)Cbrcm,x-y7C": "ab-c.ko",
		"core":                      "builtin",
	} {
		out, err := exec.Command("modprobe", "-d", dir, "-S", "1.0", "-C", "/dev/null", "-D", name).CombinedOutput()
		if want != "" && err != nil {
			t.Errorf("modprobe -D %s: %v\n%s", name, err, out)
			continue
		}
		var got []string
		for _, line := range strings.Split(string(out), "\n") {
			switch {
			case strings.HasPrefix(line, "builtin "):
				got = append(got, "builtin")
			case strings.HasPrefix(line, "insmod "):
				got = append(got, strings.TrimSpace(line[strings.LastIndex(line, "/")+1:]))
			}
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("modprobe -D %s: %q, want %q\n%s", name, text, want, out)
		}
	}
}
