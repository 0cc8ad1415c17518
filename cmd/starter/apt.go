package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// suite is the Debian release packages come from: the first whose kernel has
// device trees for the Pi 5 and whose firmware knows tryboot_a_b
// (docs/platform.md 2.1).
const suite = "trixie"

const components = "main non-free-firmware"

// source is the Debian archive this machine is configured to use.
type source struct {
	uri, key string // key is a keyring file, or empty for apt's own
}

// findSource reads the machine's apt sources, below root, and returns an
// archive: one that is configured for the very suite, else the one the machine
// has its own release from.
func findSource(root string) (source, error) {
	var files []string
	for _, pattern := range []string{"etc/apt/sources.list.d/*.sources", "etc/apt/sources.list.d/*.list", "etc/apt/sources.list"} {
		found, _ := filepath.Glob(filepath.Join(root, pattern))
		files = append(files, found...)
	}
	for _, suites := range [][]string{{suite}, releases} {
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				return source{}, err
			}
			parse := parseList
			if strings.HasSuffix(name, ".sources") {
				parse = parseStanzas
			}
			if s, ok := parse(string(b), suites); ok {
				return s, nil
			}
		}
	}
	return source{}, errors.New("no Debian source is configured on this machine; add a line such as\n" +
		"    deb URI-OF-A-DEBIAN-MIRROR bookworm main\nto /etc/apt/sources.list and run this again")
}

// releases are the suites that are a Debian release proper, in whose archive
// the wanted one is too.
var releases = []string{"bookworm", "trixie", "forky", "sid", "stable", "testing", "oldstable", "unstable"}

// serves reports whether a source has one of the wanted suites. Debian's
// archives alone call a component main and their suites so.
func serves(suites, comps string, wanted []string) bool {
	return slices.Contains(strings.Fields(comps), "main") &&
		slices.ContainsFunc(strings.Fields(suites), func(s string) bool { return slices.Contains(wanted, s) })
}

func parseStanzas(text string, wanted []string) (source, bool) {
	for _, stanza := range strings.Split(text, "\n\n") {
		fields := map[string]string{}
		for _, line := range strings.Split(stanza, "\n") {
			if key, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, "#") {
				fields[key] = strings.TrimSpace(value)
			}
		}
		uris := strings.Fields(fields["URIs"])
		if len(uris) > 0 && !strings.EqualFold(fields["Enabled"], "no") &&
			strings.Contains(" "+fields["Types"]+" ", " deb ") && serves(fields["Suites"], fields["Components"], wanted) {
			return source{uris[0], fields["Signed-By"]}, true
		}
	}
	return source{}, false
}

func parseList(text string, wanted []string) (source, bool) {
	for _, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] != "deb" {
			continue
		}
		var s source
		if strings.HasPrefix(f[1], "[") {
			end := 1
			for end < len(f) && !strings.HasSuffix(f[end], "]") {
				end++
			}
			for _, opt := range f[1:min(end+1, len(f))] {
				if key, ok := strings.CutPrefix(strings.Trim(opt, "[]"), "signed-by="); ok {
					s.key = key
				}
			}
			f = append(f[:1], f[min(end+1, len(f)):]...)
		}
		if len(f) >= 4 && serves(f[2], strings.Join(f[3:], " "), wanted) {
			s.uri = f[1]
			return s, true
		}
	}
	return source{}, false
}

// archive is an apt state of its own: nothing of the machine's apt changes.
type archive struct {
	dir, cache string
	packages   map[string]*debPackage
}

// debPackage is what the archive says of a package.
type debPackage struct {
	name, version, section string
	depends                []string
	sha256                 string
}

// openArchive brings the package lists of the suite up to date.
func openArchive(ctx context.Context, dir, cache string, log io.Writer) (*archive, error) {
	src, err := findSource("/")
	if err != nil {
		return nil, err
	}
	a := &archive{dir: dir, cache: cache, packages: map[string]*debPackage{}}
	for _, d := range []string{"lists/partial", "archives/partial", "empty"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	stanza := fmt.Sprintf("Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\n", src.uri, suite, components)
	if src.key != "" {
		stanza += "Signed-By: " + src.key + "\n"
	}
	for name, text := range map[string]string{"debian.sources": stanza, "status": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(log, "reading the package lists of Debian %s for arm64\n", suite)
	if out, err := a.apt(ctx, dir, "update", "-qq", "--error-on=any"); err != nil {
		return nil, fmt.Errorf("Debian %s can't be had from the archive this machine uses:\n%s"+
			"Its mirror must serve that suite; if it does not, add a line such as\n"+
			"    deb URI-OF-ANOTHER-MIRROR %s %s\nto a file in /etc/apt/sources.list.d and run this again", suite, out, suite, components)
	}
	return a, a.readLists()
}

// apt runs apt-get on this state. Options on the command line win over the
// machine's apt.conf, whose proxies stay in force.
func (a *archive) apt(ctx context.Context, dir string, args ...string) (string, error) {
	for _, o := range []string{
		"Dir::State=" + a.dir, "Dir::State::lists=" + filepath.Join(a.dir, "lists"), "Dir::State::status=" + filepath.Join(a.dir, "status"),
		"Dir::Cache=" + a.dir, "Dir::Etc::sourcelist=" + filepath.Join(a.dir, "debian.sources"),
		"Dir::Etc::sourceparts=" + filepath.Join(a.dir, "empty"), "Dir::Etc::preferencesparts=" + filepath.Join(a.dir, "empty"),
		"Dir::Etc::preferences=" + filepath.Join(a.dir, "none"),
		"APT::Architecture=arm64", "APT::Architectures=arm64", "APT::Sandbox::User=root",
		"Acquire::GzipIndexes=false", "Acquire::Languages=none", "Acquire::Retries=3",
		"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
	} {
		args = append(args, "-o", o)
	}
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (a *archive) readLists() error {
	lists, err := filepath.Glob(filepath.Join(a.dir, "lists", "*_Packages"))
	if err != nil || len(lists) == 0 {
		return fmt.Errorf("apt-get update left no package lists in %s", a.dir)
	}
	sort.Strings(lists)
	for _, name := range lists {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		p := &debPackage{}
		sc := bufio.NewScanner(f)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			key, value, _ := strings.Cut(sc.Text(), ": ")
			switch key {
			case "":
				a.packages[p.name] = p
				p = &debPackage{}
			case "Package":
				p.name = value
			case "Version":
				p.version = value
			case "Section":
				p.section = value
			case "SHA256":
				p.sha256 = value
			case "Depends", "Pre-Depends":
				for _, d := range strings.Split(value, ",") {
					first, _, _ := strings.Cut(d, "|")
					p.depends = append(p.depends, strings.Fields(first)[0])
				}
			}
		}
		f.Close()
		if err := sc.Err(); err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
	}
	return nil
}

// find returns what the archive says of a package.
func (a *archive) find(name string) (*debPackage, error) {
	name, _, _ = strings.Cut(name, ":")
	p := a.packages[name]
	if p == nil {
		return nil, fmt.Errorf("Debian %s has no package %q", suite, name)
	}
	return p, nil
}

func (a *archive) file(p *debPackage) string { return filepath.Join(a.cache, p.sha256+".deb") }

// fetch downloads packages that are not in the cache yet. apt checks what it
// downloads against its signed lists; the cache is keyed by the digest those
// lists give, and checked against it before a file enters.
func (a *archive) fetch(ctx context.Context, list []*debPackage, log io.Writer) error {
	var names []string
	for _, p := range list {
		if _, err := os.Stat(a.file(p)); err != nil {
			names = append(names, p.name+"="+p.version)
		}
	}
	if len(names) == 0 {
		return nil
	}
	tmp, err := os.MkdirTemp(a.cache, "download-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	fmt.Fprintf(log, "downloading %d packages\n", len(names))
	if out, err := a.apt(ctx, tmp, append([]string{"download", "-qq"}, names...)...); err != nil {
		return fmt.Errorf("downloading from Debian: %w\n%s", err, out)
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil {
		return err
	}
	for _, name := range debs {
		sum, err := fileSum(name)
		if err != nil {
			return err
		}
		if err := os.Rename(name, filepath.Join(a.cache, sum+".deb")); err != nil {
			return err
		}
	}
	for _, p := range list {
		if _, err := os.Stat(a.file(p)); err != nil {
			return fmt.Errorf("apt downloaded another %s than its lists describe (SHA-256 %s)", p.name, p.sha256)
		}
	}
	return nil
}

func fileSum(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
