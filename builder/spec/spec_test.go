package spec

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const good = `name: lab
release: "1.10"
repositories:
  - url: https://mirror.example/v{alpine}/main/
    keys: [key.rsa.pub]
packages: [alpine-base]
`

// longName makes a line of config.txt that is too long.
var longName = strings.Repeat("x", 70)

// mainURL is the address of the repository in good.
const mainURL = "https://mirror.example/v{alpine}/main/"

func parse(t *testing.T, text string) (*Image, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "key.rsa.pub"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return Parse(filepath.Join(dir, "image.yaml"), []byte(text))
}

func TestDefaults(t *testing.T) {
	img, err := parse(t, good)
	if err != nil {
		t.Fatal(err)
	}
	if img.Stream != "lab" || img.Release != "1.10" || img.Alpine != "3.23" || img.Kernel.Package != "linux-rpi" ||
		len(img.Boards) != 4 || img.SlotSize != 1<<30 || img.Console != "" || img.Repositories[0].URL != "https://mirror.example/v3.23/main" {
		t.Errorf("%+v", img)
	}
}

// TestUnquotedNumbers: a release written without quotes keeps its zeros.
func TestUnquotedNumbers(t *testing.T) {
	img, err := parse(t, strings.Replace(good, `"1.10"`, "1.10", 1)+"alpine: 3.20\n")
	if err != nil || img.Release != "1.10" || img.Alpine != "3.20" {
		t.Errorf("release %q, alpine %q, %v", img.Release, img.Alpine, err)
	}
}

func TestMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"name: [a]\n":                       ":1: this is a list; want text",
		"a: b: c\n":                         "mapping values are not allowed",
		good + "name: again\n":              `"name" already defined`,
		good + "layers: [{}]\n":             "layers[0]: want one of folder: PATH, tar: FILE and oci: REFERENCE",
		good + "layers: [{folder: gone}]\n": ":7: layers[0].folder: directory gone not found",
		good + "services: {someday: [x]}\n": "services.someday: no such runlevel",
		good + "slot-size: 20MiB\n":         "want at least 34MiB",
		good + "slot-size: 20\n":            "write it as 512MiB or 1GiB",
		good + "config: {rpi9: {}}\n":       "config.rpi9: there is no board",
		good + "config: {all: {overlays: ['" + longName + "']}}\n": "the firmware drops what is behind the 78th",

		strings.Replace(good, "key.rsa.pub", "gone.pub", 1): "repositories[0].keys[0]: no file gone.pub",
		good + "state-size: 4MiB\n":                         ":7: state-size: 4 MiB: want at least 8MiB",
		good + "watchdog: 30s\n":                            `:7: watchdog: "30s": want 6s to 15s`,
		good + "compression: tiny\n":                        `:7: compression: unknown compression "tiny", want fast or small`,
		good + "watchdog: never\n":                          "or off",
		good + "health: {soak: 20m}\n":                      "health.soak: 20m0s is not shorter than the deadline, 10m0s",
		good + "health: {soak: soon}\n":                     "invalid duration \"soon\"; write it as 60s or 10m",
		good + "health: {sok: 1s}\n":                        "sok: there is no such field",
		good + "epoch: yesterday\n":                         "write it as 2026-11-21T00:00:00Z",
		good + "keys: [gone.pub]\n":                         "keys[0]: no file gone.pub",
		good + "channel: https://x/y\n":                     "channel: \"https://x/y\": leave out https://",
		good + "ids: {chrony: 0}\n":                         "ids.chrony: 0: want a number from 1 to 65532",
		good + "overlays: [{nme: x}]\n":                     "nme: there is no such field",
		good + "overlays: ['']\n":                           "overlays[0]: want the name of an overlay",
		good + "layers: [{tar: gone}]\n":                    "layers[0].tar: no file gone",
		good + "layers: [{oci: x, rules: [{path: a}]}]\n":   "layers[0].rules: only directories take rules",
		good + "layers: [{folder: ., rules: [{path: '[', mode: '9', owner: me}]}]\n": "rules[0].owner: \"me\": want USER:GROUP",
		good + "layers: [{folder: ., rules: [{path: a, owner: '4294967296:0'}]}]\n": "rules[0].owner: \"4294967296:0\": " +
			"want numbers from 0 to 4294967294",
		good + "layers: [{folder: ., rules: [{path: a, owner: '0:-1'}]}]\n": "rules[0].owner: \"0:-1\": " +
			"want numbers from 0 to 4294967294",
		good + "layers: [{folder: ., rules: [{path: a, owner: '99999999999999999999:0'}]}]\n": "rules[0].owner: " +
			"\"99999999999999999999:0\": want numbers",
		strings.Replace(good, "packages: [", "packages: [!pkg , ", 1): "packages[0]: empty; " +
			"a name that begins with ! needs quotes in YAML, as in \"!busybox\"",
		strings.Replace(good, mainURL, "'{mirror}/main'", 1): "the address has {mirror}, but the spec has no mirror",
		"":                        "name: ",
		good + "---\nname: two\n": "more than one YAML document",
	} {
		_, err := parse(t, text)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q:\ngot  %v\nwant %q", text, err, want)
		}
	}
}

func TestMoreFields(t *testing.T) {
	img, err := parse(t, strings.Replace(good, mainURL, "'{mirror}/v{alpine}/main'", 1)+`mirror: https://m.example/alpine/
overlays:
  - base2
  - {name: ssh, with: {port: "22"}}
epoch: 2026-01-02T03:04:05Z
health: {soak: 90s}
state-size: 1GiB
watchdog: off
compression: small
`)
	if err != nil {
		t.Fatal(err)
	}
	if img.Repositories[0].URL != "https://m.example/alpine/v3.23/main" || len(img.Overlays) != 2 || img.Overlays[0].Name != "base2" ||
		img.Overlays[1].With["port"] != "22" ||
		img.Epoch.Unix() != 1767323045 || time.Duration(img.Health.Soak) != 90*time.Second ||
		time.Duration(img.Health.Deadline) != 10*time.Minute ||
		img.StateSize != 1<<30 || img.Watchdog != WatchdogOff || img.Compression != "small" {
		t.Errorf("%+v", img)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("config: {all: {lines: [1, 2]}}\nslot-size: 1GiB\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, b []byte) { Parse("image.yaml", b) })
}
