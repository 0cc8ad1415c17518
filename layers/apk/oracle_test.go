//go:build oracle

package apk

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The real apk judges the solver: make oracle ALPINE=DIR, where DIR holds an
// x86_64 minirootfs of Alpine and an index that one of its keys signed.
var (
	alpineDir = flag.String("alpine", "", "directory with alpine-minirootfs-*-x86_64.tar.gz and APKINDEX-*-x86_64.tar.gz")
	worlds    = flag.Int("worlds", 1000, "random worlds to compare")
	firstSeed = flag.Uint64("seed", 1, "of the first world")
	shown     = flag.Int("shown", 5, "differences to print in full")
)

// realApk runs apk of a minirootfs in a chroot.
type realApk struct {
	dir  string
	root string // inside dir
}

func newRealApk(t *testing.T, dir string, n int) *realApk {
	t.Helper()
	a := &realApk{dir: dir, root: fmt.Sprintf("/root%d", n)}
	if err := os.MkdirAll(dir+a.root+"/etc/apk/keys", 0o755); err != nil {
		t.Fatal(err)
	}
	keys, _ := filepath.Glob(dir + "/usr/share/apk/keys/*.pub")
	for _, k := range keys {
		b, err := os.ReadFile(k)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+a.root+"/etc/apk/keys/"+filepath.Base(k), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("chroot", dir, "apk", "--quiet", "--arch", "x86_64", "--root", a.root, "--initdb", "--repositories-file",
		"/dev/null", "add").CombinedOutput(); err != nil {
		t.Fatalf("apk: %v\n%s", err, out)
	}
	return a
}

func unpackMinirootfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	archive, _ := filepath.Glob(*alpineDir + "/alpine-minirootfs-*-x86_64.tar.gz")
	if len(archive) == 0 {
		t.Fatalf("no x86_64 minirootfs in -alpine %q", *alpineDir)
	}
	if out, err := exec.Command("tar", "-xzf", archive[0], "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	return dir
}

var installing = regexp.MustCompile(`(?m)^\(\d+/\d+\) Installing (\S+) \((\S+?)\)$`)

// ask returns what apk would install, in its order, or what it says when it
// cannot.
func (a *realApk) ask(t *testing.T, repositories string, world []string) ([]string, string) {
	t.Helper()
	file := a.root + "/etc/apk/repositories"
	if err := os.WriteFile(a.dir+file, []byte(repositories), 0o644); err != nil {
		t.Fatal(err)
	}
	args := append([]string{a.dir, "apk", "--arch", "x86_64", "--root", a.root, "--repositories-file", file, "--no-network", "add",
		"--simulate", "--"}, world...)
	out, err := exec.Command("chroot", args...).CombinedOutput()
	if err != nil {
		if !bytes.Contains(out, []byte("unable to select packages")) {
			t.Fatalf("apk add %q: %v\n%s", world, err, out)
		}
		return nil, string(out)
	}
	var list []string
	for _, m := range installing.FindAllSubmatch(out, -1) {
		// The version is cut at the repository's tag that apk prints behind it.
		list = append(list, string(m[1])+" "+string(m[2]))
	}
	return list, ""
}

func ourChoice(world []string, from []Source) ([]string, error) {
	var w []Dep
	for _, text := range world {
		d, err := parseDep(text)
		if err != nil {
			return nil, err
		}
		w = append(w, d)
	}
	got, err := Solve(w, from)
	var list []string
	for _, p := range InstallOrder(w, got) {
		list = append(list, p.Name+" "+p.Version)
	}
	return list, err
}

func minus(a, b []string) []string {
	var list []string
	for _, s := range a {
		if !slices.Contains(b, s) {
			list = append(list, s)
		}
	}
	return list
}

// tally counts what came of the worlds.
type tally struct {
	sync.Mutex
	same, impossible, differ int
	ordered                  int // of those that are the same: in the same order
}

func (c *tally) count(t *testing.T, what string, world, theirs []string, refused string, ours []string, err error) {
	c.Lock()
	defer c.Unlock()
	switch {
	case refused != "" && err != nil:
		c.impossible++
	case refused == "" && err == nil && slices.Equal(slices.Sorted(slices.Values(ours)), slices.Sorted(slices.Values(theirs))):
		if c.same++; slices.Equal(ours, theirs) {
			c.ordered++
		}
	default:
		if c.differ++; c.differ <= *shown {
			t.Logf("%s: apk add %s\napk's alone: %q\nours alone:  %q\napk: %s\nours: %v", what, strings.Join(world, " "), minus(theirs, ours),
				minus(ours, theirs), refused, err)
		}
	}
}

// end fails when more worlds differ than one in so many; 0 allows none. One in
// eight may come in another order: apk takes what waits for the same name in
// the order of the index, which a lock does not have.
func (c *tally) end(t *testing.T, oneIn int) {
	all := c.same + c.impossible + c.differ
	t.Logf("%d worlds: %d the same (%d in the same order), %d impossible for both, %d differ", all, c.same, c.ordered, c.impossible, c.differ)
	if c.differ > 0 && (oneIn == 0 || c.differ*oneIn > all) || (c.same-c.ordered)*8 > c.same {
		t.Fail()
	}
}

// TestOracleRealIndex compares random worlds over Alpine's own index.
func TestOracleRealIndex(t *testing.T) {
	dir := unpackMinirootfs(t)
	file, _ := filepath.Glob(*alpineDir + "/APKINDEX-*-x86_64.tar.gz")
	if len(file) == 0 {
		t.Fatal("no index")
	}
	b, err := os.ReadFile(file[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir+"/repo/x86_64", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/repo/x86_64/APKINDEX.tar.gz", b, 0o644); err != nil {
		t.Fatal(err)
	}
	ring := Keyring{}
	keys, _ := filepath.Glob(dir + "/usr/share/apk/keys/*.pub")
	for _, k := range keys {
		b, _ := os.ReadFile(k)
		if err := ring.Add(filepath.Base(k), b); err != nil {
			t.Fatal(err)
		}
	}
	index, err := ReadIndex(b, ring)
	if err != nil {
		t.Fatal(err)
	}
	from := []Source{{Index: index}}
	var c tally
	t.Run("worlds", func(t *testing.T) {
		for n := range 2 {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				a := newRealApk(t, dir, n)
				for seed := *firstSeed + uint64(n); seed < *firstSeed+uint64(*worlds); seed += 2 {
					world := randomWorld(index, mathrand.New(mathrand.NewPCG(seed, 0)))
					theirs, refused := a.ask(t, "/repo\n", world)
					ours, err := ourChoice(world, from)
					c.count(t, fmt.Sprint("seed ", seed), world, theirs, refused, ours, err)
				}
			})
		}
	})
	c.end(t, 0)
}

// randomWorld picks names of packages and of what they provide, with
// versions, conflicts, and now and then the same theme.
func randomWorld(x *Index, r *mathrand.Rand) []string {
	seen := map[string]bool{}
	var world []string
	add := func(name, rest string, conflict bool) {
		if seen[name] || strings.HasPrefix(name, "/") && conflict {
			return
		}
		seen[name] = true
		if conflict {
			name = "!" + name
		}
		world = append(world, name+rest)
	}
	if r.IntN(3) == 0 {
		add("alpine-base", "", false)
	}
	var depends []Dep
	for n := 1 + r.IntN(12); len(world) < n; {
		p := x.Packages[r.IntN(len(x.Packages))]
		depends = append(depends, p.Depends...)
		switch k := r.IntN(80); {
		case k < 48:
			add(p.Name, "", false)
		case k < 56 && len(p.Provides) > 0:
			add(p.Provides[r.IntN(len(p.Provides))].Name, "", false)
		case k < 60:
			add(p.Name, []string{">=", "=", "~"}[r.IntN(3)]+p.Version, false)
		case k < 61:
			add(p.Name, []string{"<", ">"}[r.IntN(2)]+p.Version, false)
		case k < 64:
			add(p.Name, "", true)
		case k < 66 && len(depends) > 0: // something that is likely to matter
			add(depends[r.IntN(len(depends))].Name, "", r.IntN(3) == 0)
		case k < 74 && len(depends) > 0:
			add(depends[r.IntN(len(depends))].Name, "", false)
		case k < 77:
			add("openrc", "", false)
		case k < 80:
			add([]string{"docs", "bash", "alpine-base", "udev", "vlan"}[r.IntN(5)], "", false)
		}
	}
	return world
}

// TestOracleSyntheticIndexes compares worlds over indexes made to be hard:
// few names, several versions, tags, priorities, conflicts and install_if.
func TestOracleSyntheticIndexes(t *testing.T) {
	dir := unpackMinirootfs(t)
	key, public := oracleKey(t)
	var c tally
	t.Run("worlds", func(t *testing.T) {
		for n := range 2 {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				a := newRealApk(t, dir, n)
				if err := os.WriteFile(dir+a.root+"/etc/apk/keys/"+key.Name, public, 0o644); err != nil {
					t.Fatal(err)
				}
				for seed := *firstSeed + uint64(n); seed < *firstSeed+uint64(*worlds); seed += 2 {
					s := randomIndexes(mathrand.New(mathrand.NewPCG(seed, 1)))
					var repositories strings.Builder
					for i, src := range s.from {
						folder := fmt.Sprintf("/synthetic%d-%d", n, i)
						b, err := WriteIndex(src.Index, key)
						if err != nil {
							t.Fatal(err)
						}
						if err := os.MkdirAll(dir+folder+"/x86_64", 0o755); err != nil {
							t.Fatal(err)
						}
						if err := os.WriteFile(dir+folder+"/x86_64/APKINDEX.tar.gz", b, 0o644); err != nil {
							t.Fatal(err)
						}
						if s.from[i].Index, err = ReadIndex(b, Keyring{key.Name: &key.Private.PublicKey}); err != nil {
							t.Fatal(err) // sorted now, as apk reads it
						}
						if src.Tag != "" {
							repositories.WriteString("@" + src.Tag + " ")
						}
						repositories.WriteString(folder + "\n")
					}
					theirs, refused := a.ask(t, repositories.String(), s.world)
					for i := range theirs { // apk prints the tag of what it installs
						theirs[i] = repositoryTag.ReplaceAllString(theirs[i], " ")
					}
					ours, err := ourChoice(s.world, s.from)
					c.count(t, fmt.Sprintf("seed %d over\n%s", seed, s.text()), s.world, theirs, refused, ours, err)
				}
			})
		}
	})
	c.end(t, 50) // docs/decisions/0004-solver.md says what is known of them
}

var repositoryTag = regexp.MustCompile(`@\S+ `)

func oracleKey(t *testing.T) (*Key, []byte) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	key := &Key{Name: "oracle.rsa.pub", Private: private}
	public, err := key.Public()
	if err != nil {
		t.Fatal(err)
	}
	return key, public
}

// BenchmarkSolve unpacks and reads Alpine's index and solves a world of 109
// packages over it:
// go test -tags oracle -run xxx -bench Solve ./layers/apk -alpine DIR
func BenchmarkSolve(b *testing.B) {
	file, _ := filepath.Glob(*alpineDir + "/APKINDEX-*-x86_64.tar.gz")
	if len(file) == 0 {
		b.Skip("no index in -alpine")
	}
	raw, err := os.ReadFile(file[0])
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		_, rest, err := splitMember(raw, maxSign)
		if err != nil {
			b.Fatal(err)
		}
		files, err := readTar(rest, maxIndex)
		if err != nil {
			b.Fatal(err)
		}
		packages, _, err := parseIndex(files["APKINDEX"])
		if err != nil {
			b.Fatal(err)
		}
		got, err := ourChoice(strings.Fields("alpine-base openssh chrony e2fsprogs iptables nftables open-iscsi nfs-utils util-linux"),
			[]Source{{Index: &Index{Packages: packages}}})
		if err != nil || len(got) != 109 {
			b.Fatalf("%d packages, %v", len(got), err)
		}
	}
}
