package spec

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestAddressesOfRepositories: an address that names no repository is refused
// with its line, and no password in one is shown.
func TestAddressesOfRepositories(t *testing.T) {
	const address = "https://mirror.example/v{alpine}/main/"
	for url, want := range map[string]string{
		"file:///srv/repo":                     ":4: repositories[0].url: ",
		"'@edge http://mirror.example/x'":      "tag: edge",
		"mirror.example/alpine/v3.23/main":     "http:// or https:// in front",
		"https://mirror.example/x/aarch64/":    "leave out /aarch64",
		"https://anna:s3cret@mirror.example/x": "machine mirror.example login USER",
		"HTTPS://mirror.example/alpine/x":      "",
	} {
		_, err := parse(t, strings.Replace(good, address, url, 1))
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
	}
	_, err := parse(t, strings.Replace(good, address, "'{mirror}/x'", 1)+"mirror: https://MIRROR/alpine\n")
	if err == nil || !strings.Contains(err.Error(), ":7: mirror: MIRROR stands for") {
		t.Errorf("the placeholder of the mirror: %v", err)
	}
}

// TestExampleKeyIsRefused: no one can log in with the keys that pikelet init
// and pikelet node init write as examples.
func TestExampleKeyIsRefused(t *testing.T) {
	for _, key := range []string{"AAAA...", "AAAAC3NzaC1lZDI1NTE5AAAAI" + strings.Repeat("A", 43)} {
		_, err := parse(t, good+"overlays:\n  - name: ssh\n    with:\n      keys: ssh-ed25519 "+key+" you@desk\n")
		if err == nil || !strings.Contains(err.Error(), ":10: overlays[0].with.keys: ") || !strings.Contains(err.Error(), "id_ed25519.pub") {
			t.Errorf("%s: got %v", key, err)
		}
	}
	if _, err := parse(t, good+"overlays:\n  - name: ssh\n    with:\n      keys: ssh-ed25519 AAAAC3Nza you@desk\n"); err != nil {
		t.Errorf("another key: %v", err)
	}
}

// TestDirectoryOfKeys: the keys of a repository may be a directory, and those
// that sign images are files.
func TestDirectoryOfKeys(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"keys/b.rsa.pub", "keys/a.rsa.pub", "keys/README", "empty/README"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := func(text string) (*Image, error) { return Parse(filepath.Join(dir, "image.yaml"), []byte(text)) }
	img, err := at(strings.Replace(good, "key.rsa.pub", "keys", 1))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{filepath.Join("keys", "a.rsa.pub"),
		filepath.Join("keys", "b.rsa.pub")}; !slices.Equal(img.Repositories[0].Keys, want) {
		t.Errorf("got %q, want %q", img.Repositories[0].Keys, want)
	}
	if _, err = at(strings.Replace(good, "key.rsa.pub", "empty", 1)); err == nil ||
		!strings.Contains(err.Error(), ":5: repositories[0].keys[0]: the directory empty holds no file") {
		t.Errorf("a directory without keys: %v", err)
	}
	if _, err = at(strings.Replace(good, "key.rsa.pub", "keys", 1) + "keys: [keys]\n"); err == nil ||
		!strings.Contains(err.Error(), ":7: keys[0]: keys is a directory") {
		t.Errorf("a directory of signing keys: %v", err)
	}
}

// TestMistakesOfYAML: what is no YAML, or was meant otherwise, is one error with
// its line, and brings no others.
func TestMistakesOfYAML(t *testing.T) {
	for text, want := range map[string]string{
		good + "name: again\n":                    `:7: mapping key "name" already defined at line 1`,
		good + "services:\n\tdefault: []\n":       ":8: the line is indented with a tab",
		"%YAML 1.2\n---\n" + good:                 ":1: another version of YAML; remove the line",
		strings.Replace(good, `"1.10"`, "010", 1): `:2: release: "010": leave out the zero in front`,
	} {
		_, err := parse(t, text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want %q alone", err, want)
		}
	}
	for _, release := range []string{"0", "0.1", "2026.01", "10"} {
		if _, err := parse(t, strings.Replace(good, "1.10", release, 1)); err != nil {
			t.Errorf("release %s: %v", release, err)
		}
	}
}
