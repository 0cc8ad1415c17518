package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/builder/cache"
	"github.com/pikelet-os/pikelet/builder/deviceprogs"
	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// once is a value that the first test that wants it makes for all.
type once[T any] struct {
	sync.Once
	value T
	err   error
}

// get returns the value, which make makes unless it is there.
func (o *once[T]) get(t *testing.T, make func() (T, error)) T {
	t.Helper()
	o.Do(func() {
		o.err = errors.New("a test before this one failed while it made what both need")
		o.value, o.err = make()
	})
	if o.err != nil {
		t.Fatalf("making what tests share: %v", o.err)
	}
	return o.value
}

// shared are images that several tests boot, and machines that were booted once
// and saved at their prompt. Tests use copies.
var shared = struct {
	sync.Mutex
	dir      string
	images   map[string]*once[*builder.Result]
	machines map[string]*once[*vm.Saved]
}{images: map[string]*once[*builder.Result]{}, machines: map[string]*once[*vm.Saved]{}}

func TestMain(m *testing.M) {
	var err error
	if shared.dir, err = os.MkdirTemp("", "pikelet-boot-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(shared.dir)
	os.Exit(code)
}

// entry returns the entry of a map of what is shared.
func entry[T any](m map[string]*once[T], key string) *once[T] {
	shared.Lock()
	defer shared.Unlock()
	if m[key] == nil {
		m[key] = &once[T]{}
	}
	return m[key]
}

// newDir makes a directory that lives as long as all tests.
func newDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(shared.dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// short skips tests that boot a virtual Pi where only quick ones are wanted.
func short(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it boots a virtual Pi")
	}
}

// sharedBuild builds an image of testdata once for all tests.
func sharedBuild(t *testing.T, file string) *builder.Result {
	t.Helper()
	return sharedBuildOf(t, file, func(string) []string { return nil })
}

// sharedBuildOf is sharedBuild for a spec in which words are replaced. fill
// gets a directory for files of its own, and returns words and what stands for
// them in turn.
func sharedBuildOf(t *testing.T, file string, fill func(dir string) []string) *builder.Result {
	t.Helper()
	short(t)
	return entry(shared.images, file).get(t, func() (*builder.Result, error) {
		return buildFilled(t, file, newDir(t), fill(newDir(t)))
	})
}

// buildFilled builds a spec of testdata with words replaced.
func buildFilled(t *testing.T, file, dir string, words []string) (*builder.Result, error) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	testdata, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	// Its paths are relative to testdata, and nothing is written there.
	text := strings.NewReplacer(words...).Replace(string(b))
	for _, relative := range []string{
		"../../../../build/", "./trouble", "./tuned", "noprepare", "inventory.yaml", "lost.yaml", "unwell.yaml",
	} {
		text = strings.ReplaceAll(text, relative, testdata+"/"+relative)
	}
	name := filepath.Join(dir, file)
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return buildImage(t, name, dir)
}

func buildImage(t *testing.T, file, dir string) (*builder.Result, error) {
	t.Helper()
	short(t)
	img, err := spec.Load(file)
	if err != nil {
		return nil, fmt.Errorf("%w\n(make starter makes the repository)", err)
	}
	programs, err := deviceprogs.Load()
	if err != nil {
		return nil, err
	}
	key, err := testKey()
	if err != nil {
		return nil, err
	}
	return builder.Build(context.Background(), img, builder.Inputs{
		Cache:    fetch.New(&cache.Cache{Dir: filepath.Join(shared.dir, "cache")}),
		Programs: programs, Key: key, Workers: 2, Log: slog.New(slog.DiscardHandler),
	}, filepath.Join(dir, "out"))
}

// testKey signs all images of these tests: one is an upgrade of another.
var testKey = sync.OnceValues(func() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })

// variant builds the small image with a part of its spec replaced.
func variant(t *testing.T, from, to string) *builder.Result {
	t.Helper()
	b, err := os.ReadFile("testdata/small.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), from) {
		t.Fatalf("the spec has no %q", from)
	}
	r, err := buildFilled(t, "small.yaml", t.TempDir(), []string{from, to})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ready is a virtual Pi at its prompt: for all tests that name the same, one
// is booted, and saved there. config is its node config, "" for none. Its card
// has mib MiB, 0 for what the image has. A test may change the card before the
// machine goes on: nothing of it is in the guest's memory but what a boot reads.
func ready(t *testing.T, r *builder.Result, config string, mib int64, change ...func(card string)) *pi {
	t.Helper()
	s := entry(shared.machines, fmt.Sprint(r.Digest, mib, config)).get(t, func() (*vm.Saved, error) {
		card := cardOf(t, r)
		if mib != 0 {
			enlarge(t, card, mib)
		}
		if config != "" {
			configure(t, card, config)
		}
		p := boot(t, card)
		p.prompt()
		p.works("sync")
		return p.Save(newDir(t))
	})
	card := filepath.Join(t.TempDir(), "disk.img")
	if err := vm.CopySparse(s.Card, card); err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(card)
	}
	p := boot(t, card, func(o *vm.Options) { o.Resume = s })
	p.prompt()
	return p
}
