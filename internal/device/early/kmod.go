package early

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// kmod is what modprobe would know: busybox' names and rules, in which - is _,
// and a module that is built in counts as loaded.
type kmod struct {
	dir     string
	files   map[string]string   // by name, below dir
	needs   map[string][]string // names, in the order they are loaded
	loaded  map[string]bool     // or built in, or loaded by this plan
	black   map[string]bool
	aliases []alias
	handOff string // why only modprobe itself can do it; "" where it is not so
}

// alias says that a module serves what matches a pattern of fnmatch(3).
type alias struct{ prefix, pattern, module string }

// moduleName returns the name busybox' modprobe compares: without directories,
// suffixes and dashes.
func moduleName(s string) string {
	s, _, _ = strings.Cut(path.Base(s), ".")
	return strings.ReplaceAll(s, "-", "_")
}

// readKmod reads the indexes of the running kernel's modules.
func (in input) readKmod() *kmod {
	k := &kmod{files: map[string]string{}, needs: map[string][]string{}, loaded: map[string]bool{}, black: map[string]bool{}}
	k.dir = "lib/modules/" + strings.TrimSpace(in.read("proc/sys/kernel/osrelease"))
	for line := range strings.Lines(in.read(k.dir + "/modules.dep")) {
		file, deps, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		name := moduleName(file)
		k.files[name] = file
		for _, d := range slices.Backward(strings.Fields(deps)) {
			k.needs[name] = append(k.needs[name], moduleName(d))
		}
	}
	for line := range strings.Lines(in.read(k.dir + "/modules.builtin")) {
		k.loaded[moduleName(strings.TrimSpace(line))] = true
	}
	for line := range strings.Lines(in.read("proc/modules")) {
		if name, _, ok := strings.Cut(line, " "); ok {
			k.loaded[name] = true
		}
	}
	k.readAliases(in.read(k.dir + "/modules.alias"))
	k.readConfig(in)
	if !k.unpacks(strings.TrimSpace(in.read("sys/module/compression"))) {
		k.handOff = "the kernel does not unpack its modules"
	}
	return k
}

func (k *kmod) readAliases(text string) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "alias" {
			continue
		}
		pattern := strings.ReplaceAll(moduleName(f[1]), "[!", "[^")
		prefix := pattern
		if i := strings.IndexAny(pattern, `*?[\`); i >= 0 {
			prefix = pattern[:i]
		}
		k.aliases = append(k.aliases, alias{prefix, pattern, moduleName(f[2])})
	}
}

// readConfig reads modprobe.d(5) as far as it blacklists. With anything else
// modprobe itself is needed.
func (k *kmod) readConfig(in input) {
	for _, file := range in.glob("etc/modprobe.conf", "etc/modprobe.d/*", "run/modprobe.d/*", "lib/modprobe.d/*", "usr/lib/modprobe.d/*") {
		for line := range strings.Lines(in.read(file)) {
			f := strings.Fields(line)
			if len(f) == 0 || strings.HasPrefix(f[0], "#") {
				continue
			}
			if len(f) != 2 || f[0] != "blacklist" || !strings.HasPrefix(file, "etc/") {
				k.handOff = "/" + file + " says " + f[0]
				return
			}
			k.black[moduleName(f[1])] = true
		}
	}
	for _, word := range strings.Fields(in.read("proc/cmdline")) {
		// modprobe passes a module its options on the kernel command line.
		if name, _, ok := strings.Cut(word, "."); ok && k.files[moduleName(name)] != "" {
			k.handOff = "the kernel command line has " + word
		}
	}
}

// unpacks reports whether the kernel itself unpacks all the modules there are.
func (k *kmod) unpacks(method string) bool {
	suffix := map[string]string{"xz": ".xz", "gzip": ".gz", "zstd": ".zst"}[method]
	for _, file := range k.files {
		if ext := path.Ext(file); ext != ".ko" && ext != suffix {
			return false
		}
	}
	return true
}

// match returns the modules that serve a name, in the order modprobe tries
// them: the last line of the index first.
func (k *kmod) match(name string) []string {
	var list []string
	for _, a := range slices.Backward(k.aliases) {
		if !strings.HasPrefix(name, a.prefix) {
			continue
		}
		if ok, err := path.Match(a.pattern, name); ok && err == nil {
			list = append(list, a.module)
		}
	}
	return list
}

// chain returns the files to load for a module that is not loaded yet, those
// it needs first, and counts them as loaded.
func (k *kmod) chain(name string) []string {
	var list []string
	for _, n := range append(slices.Clone(k.needs[name]), name) {
		if !k.loaded[n] && k.files[n] != "" {
			k.loaded[n] = true
			list = append(list, "/"+k.dir+"/"+k.files[n])
		}
	}
	return list
}

// modaliases returns what the kernel says of its devices, sorted and each
// once.
func (in input) modaliases() []string {
	found := map[string]bool{}
	fs.WalkDir(in.root, "sys/devices", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() == "modalias" {
			for _, word := range strings.Fields(in.read(name)) {
				found[word] = true
			}
		}
		return nil // a device that is gone is none
	})
	return slices.Sorted(maps.Keys(found))
}

// coldplug loads what the devices ask for, as modprobe -abq would.
func (in input) coldplug() []Step {
	var steps []Step
	var odd []string // names in which busybox and kmod see different parts
	k, wanted := in.readKmod(), in.modaliases()
	for _, word := range wanted {
		if k.handOff != "" || strings.ContainsAny(word, `/.'"\`) {
			odd = append(odd, word)
			continue
		}
		for _, name := range k.match(moduleName(word)) {
			if k.black[name] {
				continue
			}
			if files := k.chain(name); len(files) > 0 {
				steps = append(steps, loadStep{files, true})
			}
		}
	}
	if len(odd) > 0 {
		steps = append(steps, runStep{append([]string{"modprobe", "-abq"}, odd...), true})
	}
	return steps
}

// loadNamed loads modules by their names, or by those of aliases. A name that
// means nothing is an error: the script says so.
func (in input) loadNamed(names []string) ([]Step, error) {
	if len(names) == 0 {
		return nil, nil
	}
	k := in.readKmod()
	if k.handOff != "" {
		return nil, errors.New(k.handOff)
	}
	var steps []Step
	for _, word := range names {
		name := moduleName(word)
		if k.loaded[name] {
			continue
		}
		found := slices.DeleteFunc(k.match(name), func(n string) bool { return k.black[n] })
		if len(found) == 0 && k.files[name] != "" {
			found = []string{name}
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("there is no module %s", word)
		}
		for _, n := range found {
			if files := k.chain(n); len(files) > 0 {
				steps = append(steps, loadStep{files, false})
			}
		}
	}
	return steps, nil
}
