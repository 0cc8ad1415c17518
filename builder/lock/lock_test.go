package lock

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

var update = flag.Bool("update", false, "write the golden files")

func sample() *File {
	return &File{Format: Format, Tool: "v1", Epoch: 1795219200, Programs: map[string]string{"init": "sha256:aa", "pikeletd": "sha256:bb"},
		World: []string{"linux-rpi", "busybox<2"}, Repositories: []string{"https://mirror.example/main"},
		Indexes: map[string]Index{"https://mirror.example/main": {Digest: "sha256:dd", Written: 1795219000, Newest: 1795218000}},
		Packages: []Package{
			{"busybox", "1.37.0-r6", "aarch64", "https://mirror.example/main", "Q1abc=", 500},
			{"linux-rpi", "6.12.51-r0", "aarch64", "https://mirror.example/main", "Q1def=", 900},
		},
		Layers: []Layer{{"folder", "files", "sha256:cc"}}}
}

func TestGolden(t *testing.T) {
	b, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("testdata/sample.lock", b, 0o644); err != nil {
			t.Fatal(err)
		}
		t.Fatal("written; run again without -update")
	}
	want, err := os.ReadFile("testdata/sample.lock")
	if err != nil || string(want) != string(b) {
		t.Errorf("got\n%swant\n%s(%v)", b, want, err)
	}
	f, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), f); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}

// lines returns changes for people.
func lines(list []Change) string {
	var text []string
	for _, c := range list {
		text = append(text, c.String())
	}
	return strings.Join(text, "\n")
}

// TestChangesForPrograms: each change has fields, and a lock that is the first has all
// of its inputs as new ones.
func TestChangesForPrograms(t *testing.T) {
	now := sample()
	now.Layers[0].Digest = "sha256:dd"
	b, err := json.Marshal(Changes(sample(), now))
	was := sample().Layers[0]
	want := `[{"kind":"` + was.Kind + `","name":"files","from":"` + was.Digest + `","to":"sha256:dd","note":"other contents"}]`
	if err != nil || string(b) != want {
		t.Errorf("got %s, %v, want %s", b, err, want)
	}
	list := Changes(nil, now)
	if len(list) != len(now.Packages)+len(now.Layers)+len(now.Overlays) {
		t.Errorf("a new lock changes %v", list)
	}
	for _, c := range list {
		if c.From != "" || c.To == "" {
			t.Errorf("%+v is not new", c)
		}
	}
}

func TestChanges(t *testing.T) {
	now := sample()
	now.Packages[0].Version = "1.37.0-r7"
	now.Packages[1] = Package{"linux-lts", "6.6-r0", "aarch64", "x", "Q1z=", 1}
	now.Layers[0].Digest = "sha256:dd"
	now.Tool = "v2"
	now.Programs = maps.Clone(now.Programs)
	now.Programs["pikelet-rollout"] = "sha256:ee"
	want := "~ busybox 1.37.0-r6 -> 1.37.0-r7\n+ linux-lts 6.6-r0\n- linux-rpi 6.12.51-r0\n~ " +
		now.Layers[0].Kind + " files: other contents\n+ program pikelet-rollout\n~ tool v1 -> v2"
	if got := lines(Changes(sample(), now)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := Changes(sample(), sample()); len(got) != 0 {
		t.Errorf("nothing changed, but %q", got)
	}
}

// TestDecodeRefuses: a lock that would name files outside of a repository, or
// leaves out what pins an input, is not taken.
func TestDecodeRefuses(t *testing.T) {
	for what, change := range map[string]func(*File){
		"another format":         func(f *File) { f.Format = 2 },
		"no epoch":               func(f *File) { f.Epoch = 0 },
		"no packages":            func(f *File) { f.Packages = nil },
		"a name that climbs":     func(f *File) { f.Packages[0].Name = "../x" },
		"a hidden name":          func(f *File) { f.Packages[0].Name = ".x" },
		"a version with a slash": func(f *File) { f.Packages[0].Version = "1/2" },
		"no version":             func(f *File) { f.Packages[0].Version = "" },
		"no repository":          func(f *File) { f.Packages[0].Repository = "" },
		"no size":                func(f *File) { f.Packages[0].Size = 0 },
		"no identity":            func(f *File) { f.Packages[0].Identity = "" },
		"a password":             func(f *File) { f.Repositories = []string{"@edge https://anna:s3cret@mirror.example/x"} },
		"an identity of no kind": func(f *File) { f.Packages[0].Identity = "X1abc=" },
	} {
		f := sample()
		change(f)
		b, err := f.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(b); !slices.Contains(hint.Of(err), "write a new lock") ||
			strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", what, err)
		}
	}
	b, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(append(b, "extra: 1\n"...)); err == nil || !strings.Contains(err.Error(), "field extra not found") {
		t.Errorf("a field that nothing reads: %v", err)
	}
}

func TestSaveIsAtomic(t *testing.T) {
	spec := filepath.Join(t.TempDir(), "image.yaml")
	if f, err := Load(spec); f != nil || err != nil {
		t.Errorf("no lock: %v, %v", f, err)
	}
	if err := sample().Save(spec); err != nil {
		t.Fatal(err)
	}
	if f, err := Load(spec); err != nil || !cmp.Equal(f, sample()) {
		t.Errorf("%+v, %v", f, err)
	}
	left, _ := filepath.Glob(filepath.Dir(spec) + "/.*")
	if len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if err := sample().Save(filepath.Join(t.TempDir(), "none", "image.yaml")); err == nil {
		t.Error("saved into a directory that does not exist")
	}
}

func FuzzDecode(f *testing.F) {
	b, err := sample().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("format: 1\npackages: [{name: ../x}]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Decode(b)
		if err != nil {
			return
		}
		again, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(again); err != nil {
			t.Fatalf("%v\n%s", err, again)
		}
	})
}
