package cli

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/tools/full"
)

// withApp gives a spec a directory with a large file of the user's beside small
// ones, and a script to change them.
func withApp(t *testing.T, dir string) {
	t.Helper()
	newSpec(t, dir)
	big := make([]byte, 3<<20)
	rand.New(rand.NewSource(5)).Read(big)
	copy(big[1<<20:], bytes.Repeat([]byte("compressible "), 100_000))
	write(t, dir+"/files/opt/app", string(big), 0o755)
	write(t, dir+"/files/opt/config", "first", 0o644)
}

// made lists what the cache holds of a kind.
func made(t *testing.T, dir, kind string) map[string]bool {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(dir, "cache/pikelet", kind))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, e := range list {
		names[e.Name()] = true
	}
	return names
}

// without takes a package and its service out of a spec.
const without = "sed -i 's/, dropbear//; /^services:/d; /default: .dropbear/d'"

// TestRebuilds changes a spec and its files in many ways. Each image must be
// the one that a build without a cache makes, and must cost only what changed.
func TestRebuilds(t *testing.T) {
	dir := t.TempDir()
	withApp(t, dir)
	warmCache(t, dir)
	ok(t, dir, "build", "-o", "out", "image.yaml")
	type change struct {
		what, script string
		most         int // things made that the cache did not have
	}
	changes := []change{
		{"nothing", "true", 0},
		// The file's own fragment, and those of the package database and of
		// what else names the build; the database's whole block, if it has one.
		{"a small file", "echo second >files/opt/config; echo old >files/opt/old", 6},
		{"a large file", "printf x | dd of=files/opt/app bs=1 seek=2000000 conv=notrunc", 7},
		{"a mode, a file more and one less", "chmod 755 files/opt/config; echo new >files/opt/more; rm files/opt/old", 6},
		{"back to what it was", "rm files/opt/more; echo first >files/opt/config; chmod 644 files/opt/config", 6},
		{"a package less", without + " image.yaml", 20},
		{"a board", "sed -i 's/^boards:.*/boards: [vm]/' image.yaml", 6},
		{"the compression", "echo 'compression: small' >>image.yaml", 1000},
	}
	if full.Tests { // one by one
		changes = slices.Replace(changes, 3, 4,
			change{"a mode", "chmod 755 files/opt/config", 6},
			change{"a file more", "echo new >files/opt/more", 6},
			change{"a file less", "rm files/opt/old", 6})
	}
	for i, c := range changes {
		must(t, dir, c.script)
		before := made(t, dir, "made")
		again := digestLine(t, ok(t, dir, "build", "-o", "out", "image.yaml"))
		added := 0
		for name := range made(t, dir, "made") {
			if !before[name] {
				added++
			}
		}
		if added > c.most {
			t.Errorf("%s changed: %d things were made anew, want at most %d", c.what, added, c.most)
		}
		fresh := digestLine(t, ok(t, dir, "build", "--cache", "none", "--fresh", "-o", "fresh", "image.yaml"))
		if again != fresh {
			t.Errorf("%s changed: the image is %s, a fresh one %s", c.what, again, fresh)
		}
		// The block map has the digests of the disk image's contents; the image
		// itself is mostly holes, which take long to compare.
		but := "-x disk.img"
		if i == 0 || i == len(changes)-1 {
			but = ""
		}
		must(t, dir, "diff -r "+but+" out fresh && rm -r none")
	}
}

// TestDamagedCache damages everything that was kept, in turn at its beginning,
// in its middle and at its end: builds notice, and make the same image. Unless
// make test-all runs it, each thing is damaged in one of these places.
func TestDamagedCache(t *testing.T) {
	dir := t.TempDir()
	withApp(t, dir)
	warmCache(t, dir)
	digest := digestLine(t, ok(t, dir, "build", "-o", "out", "image.yaml"))
	places := []float64{0, 0.5, 0.999999}
	for round := range places {
		if round > 0 && !full.Tests {
			break
		}
		for i, name := range slices.Sorted(maps.Keys(made(t, dir, "made"))) {
			where := places[(i+round)%len(places)]
			p := filepath.Join(dir, "cache/pikelet/made", name)
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			if len(b) > 0 {
				b[int(where*float64(len(b)))] ^= 1
			}
			write(t, p, string(b), 0o644)
		}
		if got := digestLine(t, ok(t, dir, "build", "-o", "out", "image.yaml")); got != digest {
			t.Errorf("damaged, round %d: another image", round)
		}
		if out := ok(t, dir, "build", "-o", "out", "image.yaml"); digestLine(t, out) != digest || strings.Contains(out, "damaged") {
			t.Errorf("damaged, round %d: the build after says\n%s", round, out)
		}
	}
	must(t, dir, "for f in cache/pikelet/made/*; do : >$f; done")
	if got := digestLine(t, ok(t, dir, "build", "-o", "out", "image.yaml")); got != digest {
		t.Error("emptied files: another image")
	}
}

// TestCachePrune bounds the cache, by itself and when told, and never while a
// build uses it.
func TestCachePrune(t *testing.T) {
	dir := t.TempDir()
	withApp(t, dir)
	warmCache(t, dir)
	digest := digestLine(t, ok(t, dir, "build", "-o", "out", "image.yaml"))
	size := func() (n int64) {
		for name := range made(t, dir, "made") {
			st, err := os.Stat(filepath.Join(dir, "cache/pikelet/made", name))
			if err != nil {
				t.Fatal(err)
			}
			n += st.Size()
		}
		return n
	}
	if size() < 2<<20 {
		t.Fatalf("after a build the cache holds %d bytes", size())
	}
	ok(t, dir, "build", "--cache-size", "1MiB", "-o", "out", "image.yaml")
	if size() > 1<<20 {
		t.Errorf("--cache-size 1MiB leaves %d bytes", size())
	}
	write(t, dir+"/cache/pikelet/made/.draft-killed", strings.Repeat("x", 1000), 0o644)
	lock, err := os.Open(dir + "/cache/pikelet/.lock")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_SH); err != nil { // as a build does
		t.Fatal(err)
	}
	fails(t, dir, []string{"cache", "prune", "--all"}, "something is using the cache", "try again when it is done")
	lock.Close()
	if out := ok(t, dir, "cache", "prune"); !strings.Contains(out, "MiB left") || made(t, dir, "made")[".draft-killed"] {
		t.Errorf("what a killed build left is there after prune says\n%s", out)
	}
	if out := ok(t, dir, "cache", "prune", "--all"); !strings.Contains(out, " 0.0 MiB left") || size() != 0 {
		t.Errorf("prune --all leaves %d bytes and says\n%s", size(), out)
	}
	if got := digestLine(t, ok(t, dir, "build", "-o", "out", "image.yaml")); got != digest {
		t.Error("after pruning: another image")
	}
	fails(t, dir, []string{"cache", "prune", "--keep", "much"}, "write it as 512MiB or 1GiB")
}

// TestBuildsShareACache runs builds of two specs at once, again and again, and
// prunes beside them.
func TestBuildsShareACache(t *testing.T) {
	dir := t.TempDir()
	withApp(t, dir)
	must(t, dir, "cp image.yaml other.yaml; "+without+" other.yaml")
	want := map[string]string{}
	for _, spec := range []string{"image", "other"} {
		want[spec] = digestLine(t, ok(t, dir, "build", "--cache", "own", "-o", spec, spec+".yaml"))
	}
	rounds := 1
	if full.Tests {
		rounds = 3
	}
	for range rounds {
		must(t, dir, "rm -rf cache/pikelet/made")
		var group sync.WaitGroup
		for _, spec := range []string{"image", "other"} {
			for n := range 2 {
				group.Go(func() {
					out, code := pikelet(t, dir, []string{"XDG_CACHE_HOME=" + dir + "/cache"}, "build", "--cache-size", "1MiB", "-o", fmt.Sprint(spec, n),
						spec+".yaml")
					if code != 0 || !strings.Contains(out, want[spec]) {
						t.Errorf("%s beside others: exit %d, want %s\n%s", spec, code, want[spec], out)
					}
				})
			}
		}
		group.Wait()
	}
}

// running is a pikelet that goes on.
type running struct {
	t     *testing.T
	cmd   *exec.Cmd
	ended chan struct{} // closed when it did, with err
	err   error
	mu    sync.Mutex
	out   bytes.Buffer
	more  chan struct{} // closed, and made anew, when it says more
}

func begin(t *testing.T, dir string, args ...string) *running {
	t.Helper()
	r := &running{t: t, cmd: exec.Command(os.Args[0], args...), ended: make(chan struct{}), more: make(chan struct{})}
	r.cmd.Dir, r.cmd.Stdout, r.cmd.Stderr = dir, r, r
	r.cmd.Env = []string{"BE_PIKELET=1", "HOME=" + dir, "XDG_CACHE_HOME=" + dir + "/cache", "PATH=" + os.Getenv("PATH")}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		r.err = r.cmd.Wait()
		close(r.ended)
	}()
	t.Cleanup(func() { r.end() })
	return r
}

// end interrupts it and returns how it ended.
func (r *running) end() error {
	r.cmd.Process.Signal(os.Interrupt)
	<-r.ended
	return r.err
}

func (r *running) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.more)
	r.more = make(chan struct{})
	return r.out.Write(b)
}

func (r *running) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.String()
}

// wait waits until a text was said so many times.
func (r *running) wait(text string, times int) {
	r.t.Helper()
	limit := time.After(hang)
	for {
		r.mu.Lock()
		more, found := r.more, strings.Count(r.out.String(), text) >= times
		r.mu.Unlock()
		if found {
			return
		}
		select {
		case <-more:
			continue
		case <-r.ended:
			r.t.Fatalf("it ended (%v), and %q did not come %d times in\n%s", r.err, text, times, r.said())
		case <-limit:
			r.t.Fatalf("%q did not come %d times in\n%s", text, times, r.said())
		}
	}
}

// TestWatch changes what a watched build is made of, breaks it, and mends it.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	withApp(t, dir)
	warmCache(t, dir)
	b := begin(t, dir, "build", "--watch", "-o", "out", "image.yaml")
	digests := regexp.MustCompile(`OCI manifest (sha256:[0-9a-f]+)`)
	builds, failures := 0, 0
	for _, c := range []struct{ what, script, fails string }{
		{"at first", "true", ""},
		{"a file", "echo second >files/opt/config", ""},
		{"a spec that is wrong", "echo 'watchdog: never' >>image.yaml", "watchdog: \"never\""},
		{"the spec mended", "sed -i /watchdog/d image.yaml; echo >>image.yaml", ""},
		{"a new directory", "mkdir -p files/srv/deep && echo deep >files/srv/deep/er", ""},
		{"a file gone", "rm files/opt/config", ""},
		{"a lock", "echo broken >image.yaml.lock", "image.yaml.lock"},
		{"no lock", "rm image.yaml.lock", ""},
	} {
		must(t, dir, c.script)
		if c.fails == "" {
			builds++
			b.wait("\nbuilt took=", builds)
			all := digests.FindAllStringSubmatch(b.said(), -1)
			if fresh := digestLine(t, ok(t, dir, "build", "-o", "fresh", "image.yaml")); fresh != all[len(all)-1][1] {
				t.Errorf("%s: built %v, the image is %s", c.what, all[len(all)-1], fresh)
			}
		} else {
			failures++
			b.wait("\nwaiting for a change", builds+failures)
			if !strings.Contains(b.said(), c.fails) {
				t.Errorf("%s: no %q in\n%s", c.what, c.fails, b.said())
			}
		}
		b.wait("\nwaiting for a change", builds+failures)
	}
	if err := b.end(); err != nil {
		t.Errorf("ended by its user, watching says %v", err)
	}
}

// TestEditBootLoop is a person's loop: a file is saved, and the image with it
// boots.
func TestEditBootLoop(t *testing.T) {
	dir := t.TempDir()
	newSpecOver(t, dir, starterFolder(t))
	write(t, dir+"/image.yaml", "name: loop\nrelease: '1'\nboards: [vm]\nrepositories: [{url: starter, keys: [starter/starter.rsa.pub]}]\n"+
		"packages: [alpine-base, e2fsprogs]\nlayers: [{folder: files}]\nconsole: root\nslot-size: 64MiB\n", 0o644)
	const shout = "#!/sbin/openrc-run\nstart() { echo; echo it is %s; }\n"
	must(t, dir, "mkdir -p files/etc/init.d; ls")
	write(t, dir+"/files/etc/init.d/shout", fmt.Sprintf(shout, "the first"), 0o755)
	must(t, dir, "echo 'services: {default: [shout]}' >>image.yaml")
	b := begin(t, dir, "build", "--watch", "-o", "out", "image.yaml")
	pi := begin(t, dir, "vm", "run", "--watch", "out/disk.img")
	pi.wait("login reached after", 1)
	if !strings.Contains(pi.said(), "it is the first") {
		t.Fatalf("the first image does not say so:\n%s\n%s", b.said(), pi.said())
	}
	write(t, dir+"/files/etc/init.d/shout", fmt.Sprintf(shout, "the second"), 0o755)
	pi.wait("login reached after", 2)
	if !strings.Contains(pi.said(), "it is the second") {
		t.Fatalf("the second image does not say so:\n%s\n%s", b.said(), pi.said())
	}
}

// TestFetchesOverlap has a mirror that answers no package before three are
// asked for, and then one of them only when another, small one was unpacked:
// what fetches one after the other, or all before the first is unpacked, never
// ends. Each is asked for once.
func TestFetchesOverlap(t *testing.T) {
	dir := t.TempDir()
	newSpec(t, dir)
	files := http.FileServer(http.Dir(dir + "/starter"))
	var mu sync.Mutex
	asked, together := map[string]int{}, make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, ".apk") {
			files.ServeHTTP(w, r)
			return
		}
		mu.Lock()
		asked[r.URL.Path]++
		if len(asked) == 3 {
			close(together)
		}
		mu.Unlock()
		select {
		case <-together:
		case <-r.Context().Done():
		case <-time.After(hang):
			http.Error(w, "no other package was asked for meanwhile", http.StatusGatewayTimeout)
			return
		}
		if strings.Contains(r.URL.Path, "linux-rpi") { // the largest waits until another is kept unpacked
			for start := time.Now(); time.Since(start) < hang; time.Sleep(50 * time.Millisecond) {
				kept, _ := filepath.Glob(dir + "/cache/pikelet/made/.draft-*")
				for _, name := range kept {
					if st, err := os.Stat(name); err == nil && st.Size() > 0 {
						files.ServeHTTP(w, r)
						return
					}
				}
			}
			http.Error(w, "nothing was unpacked meanwhile", http.StatusGatewayTimeout)
			return
		}
		files.ServeHTTP(w, r)
	}))
	defer s.Close()
	edit(t, dir+"/image.yaml", "url: starter", "url: "+s.URL)
	ok(t, dir, "build", "-o", "out", "image.yaml")
	for name, times := range asked {
		if times != 1 {
			t.Errorf("%s was asked for %d times", name, times)
		}
	}
	if len(asked) < 10 {
		t.Errorf("only %d packages were asked for", len(asked))
	}
}
