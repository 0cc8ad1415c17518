package importer

import (
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

var update = flag.Bool("update", false, "write the golden files anew")

// seal stands in for encryption: it tells how long a secret is, and not what it is.
func seal(secret string) (string, error) {
	return "age:" + base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "a secret of %d characters", len(secret))), nil
}

const publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB you@desk"

// render runs an import over a directory and returns all of its result as text.
func render(t *testing.T, dir string, o Options) (string, string) {
	t.Helper()
	head, err := os.ReadFile(filepath.Join(dir, "import"))
	if err != nil {
		t.Fatal(err)
	}
	format, name, _ := strings.Cut(strings.TrimSpace(string(head)), " ")
	r, err := Read(os.DirFS(dir), format, name, o)
	if err != nil {
		return fmt.Sprintf("error: %v\nhints: %s\n", err, strings.Join(hint.Of(err), "; ")), ""
	}
	var b strings.Builder
	for _, n := range r.Notes {
		fmt.Fprintln(&b, n)
	}
	fmt.Fprintf(&b, "left out: %s\n\n%s", strings.Join(r.LeftOut, ", "), r.Inventory)
	return b.String(), string(r.Inventory)
}

// TestImports: what comes of inventories and configs with the shapes of public ones.
func TestImports(t *testing.T) {
	dirs, err := filepath.Glob("testdata/import/*")
	if err != nil || len(dirs) < 13 {
		t.Fatalf("got %d cases, %v", len(dirs), err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			o := Options{Seal: seal, Keys: []string{publicKey}, Country: "DE"}
			got, _ := render(t, dir, o)
			golden := filepath.Join(dir, "want.txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				t.Fatal("golden file written; look at the difference")
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
			// Secrets of all cases have this in them; none is ever shown.
			if strings.Contains(got, "hush") {
				t.Error("a secret is shown")
			}
			o.Seal = nil
			if without, inventory := render(t, dir, o); strings.Contains(without, "hush") || strings.Contains(inventory, "age:") {
				t.Error("a secret is shown, or kept, without a key to encrypt it to")
			}
		})
	}
}

// TestSourcesAreBounded: what a source makes Read do is not the source's to choose.
func TestSourcesAreBounded(t *testing.T) {
	bomb := "a: &a {x: y}\n"
	for c := 'b'; c < 'g'; c++ {
		bomb += fmt.Sprintf("%c: &%c {<<: [%s]}\n", c, c, strings.TrimSuffix(strings.Repeat("*"+string(c-1)+", ", 10), ", "))
	}
	for name, c := range map[string]struct{ format, text string }{
		"aliases in aliases":  {"k3os", bomb + "k3os: {<<: *f}\n"},
		"an alias of itself":  {"k3os", "k3os: &k\n  k3s_args: [server]\n  labels: {a: *k}\n"},
		"a large file":        {"k3os", "# " + strings.Repeat("x", maxFile)},
		"machines of a NAS":   {"k3s-ansible", "[nas]\n10.0.[0:255].1\n10.1.[0:255].1\n10.2.[0:99].1\n[master]\na\n"},
		"a range of machines": {"k3s-ansible", "[master]\n10.0.[0:255].1\n10.1.[0:255].1\n10.2.[0:99].1\n"},
		"deep":                {"k3os", strings.Repeat("k3os: {a: ", 1) + strings.Repeat("[", 4000) + strings.Repeat("]", 4000) + "}"},
		"a range without end": {"k3s-ansible", "[master]\n10.0.0.[1:999999999]\n"},
		"nothing":             {"k3s-ansible", ""},
		"no cloud-config":     {"cloud-init", "#!/bin/sh\ntrue\n"},
		"no YAML":             {"k3os", "\tx: ["},
		"a list":              {"k3os", "- x\n"},
		"another format":      {"talos", "x"},
		"not there":           {"k3os", ""},
	} {
		fsys := fstest.MapFS{"f": {Data: []byte(c.text)}}
		file := "f"
		if name == "not there" {
			file = "g"
		}
		if r, err := Read(fsys, c.format, file, Options{}); err == nil && name != "an alias of itself" && name != "deep" {
			t.Errorf("%s: no error, %d nodes", name, r.Nodes)
		}
	}
	many := fstest.MapFS{"hosts.ini": {Data: []byte("[master]\na\n")}}
	for i := range maxFiles + 1 {
		many[fmt.Sprintf("group_vars/all/%d.yml", i)] = &fstest.MapFile{Data: []byte("a: 1\n")}
	}
	if _, err := Read(many, "k3s-ansible", "hosts.ini", Options{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("many files: got error %v, want %v", err, ErrTooLarge)
	}
}

// TestResultsAreChecked: what is right alone and wrong together makes no inventory.
func TestResultsAreChecked(t *testing.T) {
	fsys := fstest.MapFS{"user-data": {Data: []byte("#cloud-config\nhostname: two\n")}, "network-config": {Data: []byte(`version: 2
ethernets:
  eth0: {addresses: [10.0.0.2/24], gateway4: 10.0.0.1}
  eth1: {addresses: [10.1.0.2/24], gateway4: 10.1.0.1}
`)}}
	if r, err := Read(fsys, "cloud-init", "user-data", Options{}); err == nil || !strings.Contains(err.Error(), "no valid inventory") {
		t.Errorf("two gateways: got error %v, %+v", err, r)
	}
}

// TestNotesAreText: a source does not steer the terminal.
func TestNotesAreText(t *testing.T) {
	fsys := fstest.MapFS{"f": {Data: []byte("\"\\e[2J\\nx\": 1\nk3os: {k3s_args: [\"--a\\e[31m\"]}\n")}}
	r, err := Read(fsys, "k3os", "f", Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range r.Notes {
		if strings.ContainsAny(n.String(), "\x1b\n") {
			t.Errorf("%q", n)
		}
	}
}

// TestSealingFails: an inventory without a secret that could not be encrypted is none.
func TestSealingFails(t *testing.T) {
	broken := errors.New("no entropy")
	fsys := fstest.MapFS{"f": {Data: []byte("k3os: {token: hush}\n")}}
	_, err := Read(fsys, "k3os", "f", Options{Seal: func(string) (string, error) { return "", broken }})
	if !errors.Is(err, broken) {
		t.Errorf("got error %v, want %v", err, broken)
	}
}

func fuzz(f *testing.F, format string) {
	files, err := filepath.Glob("testdata/import/" + format + "-*/*")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		if b, err := os.ReadFile(name); err == nil && filepath.Base(name) != "want.txt" {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, name := range []string{"f.yml", "f.ini", "f.env", "user-data"} {
			r, err := Read(fstest.MapFS{name: {Data: b}, "network-config": {Data: b}}, format, name, Options{Seal: seal})
			if err != nil {
				continue
			}
			if err := check(r.Inventory, len(r.LeftOut) > 0); err != nil {
				t.Errorf("%v\n%s", err, r.Inventory)
			}
			for _, n := range r.Notes {
				if strings.ContainsAny(n.What+n.Why, "\n\x00") {
					t.Errorf("not one line: %q", n)
				}
			}
		}
	})
}

func FuzzAnsible(f *testing.F)     { fuzz(f, "k3s-ansible") }
func FuzzRaspiAlpine(f *testing.F) { fuzz(f, "raspi-alpine") }
func FuzzK3os(f *testing.F)        { fuzz(f, "k3os") }
func FuzzCloudInit(f *testing.F)   { fuzz(f, "cloud-init") }
