// Package cmdline is what /init is told: the words of the kernel command
// line, and the description the builder puts into the initramfs beside it.
package cmdline

import (
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

const slotWord = "pikelet.slot"

// WatchdogOff is the word that leaves the hardware watchdog alone, for
// hardware whose watchdog is broken.
const WatchdogOff = "pikelet.watchdog=off"

// Base returns the words every Pikelet kernel gets, before a spec's own.
//
// console=serial0 is rewritten by the firmware to the UART the board has;
// tty1 comes first so that the serial console is /dev/console. panic=10 makes
// a kernel that dies in a trial fall back. The cgroup words undo what the
// firmware inserts, and k3s does not start without them (docs/platform.md 6.3).
func Base() []string {
	return []string{"console=tty1", "console=serial0,115200", "panic=10", "ro", "quiet",
		"cgroup_enable=cpuset", "cgroup_memory=1", "cgroup_enable=memory", "psi=1"}
}

// Encode returns the kernel command line of a slot as one line.
func Encode(l slots.Letter, words []string) []byte {
	return []byte(strings.Join(append([]string{slotWord + "=" + string(l)}, words...), " ") + "\n")
}

// Line is the command line of a running kernel.
type Line struct {
	Slot  slots.Letter
	words map[string]bool
}

// Parse reads /proc/cmdline.
func Parse(b []byte) (Line, error) {
	l := Line{words: map[string]bool{}}
	for _, w := range strings.Fields(string(b)) {
		l.words[w] = true
		if value, ok := strings.CutPrefix(w, slotWord+"="); ok {
			slot, err := slots.ParseLetter(value)
			if err != nil {
				return l, fmt.Errorf("reading the kernel command line: %w", err)
			}
			l.Slot = slot
		}
	}
	if l.Slot == "" {
		return l, fmt.Errorf("reading the kernel command line: %s= not found", slotWord)
	}
	return l, nil
}

// Has reports whether the kernel command line has a word.
func (l Line) Has(word string) bool { return l.words[word] }

// Value returns what a word of the form NAME=VALUE says; "" where there is
// none.
func Value(words []byte, name string) string {
	for _, w := range strings.Fields(string(words)) {
		if value, ok := strings.CutPrefix(w, name+"="); ok {
			return value
		}
	}
	return ""
}

// Missing returns the first word of a slot's own command line that the running
// kernel did not get, or "". Consoles are ignored: the firmware rewrites them.
func (l Line) Missing(own []byte) string {
	for _, w := range strings.Fields(string(own)) {
		if !l.words[w] && !strings.HasPrefix(w, "console=") {
			return w
		}
	}
	return ""
}

// InfoFile is where the description lies in the initramfs.
const InfoFile = "/etc/pikelet/boot.json"

// Info describes the image to its own /init.
type Info struct {
	Stream  string   `json:"stream"`
	Release string   `json:"release"`
	BuildID string   `json:"buildID"`
	Epoch   int64    `json:"epoch"`
	Keys    []string `json:"keys"`    // PEM public keys that may sign
	Modules []Module `json:"modules"` // in the order they are loaded
	// Watchdog is how many seconds the hardware waits for a hung kernel; 0
	// leaves it to /init.
	Watchdog int `json:"watchdog,omitempty"`
}

// Module is a kernel module in the initramfs.
type Module struct {
	Path   string `json:"path"`
	Digest string `json:"digest"` // sha256:hex
	// Net says that only a boot without a card needs it.
	Net bool `json:"net,omitempty"`
}

// EncodeInfo returns the bytes of InfoFile.
func EncodeInfo(i Info) ([]byte, error) {
	b, err := json.MarshalIndent(i, "", " ")
	return append(b, '\n'), err
}

// DecodeInfo reads InfoFile.
func DecodeInfo(b []byte) (Info, error) {
	var i Info
	if err := json.Unmarshal(b, &i); err != nil {
		return i, fmt.Errorf("reading %s: %w", InfoFile, err)
	}
	if i.BuildID == "" || len(i.Keys) == 0 {
		return i, fmt.Errorf("reading %s: it names no build or no keys", InfoFile)
	}
	return i, nil
}

// MaxInfo bounds InfoFile, in bytes: an entry has less than 200, and no kernel
// has 20,000 modules.
const MaxInfo = 4 << 20

// PublicKeys returns the keys that may sign. One that can't be read is an error:
// what it signed would not start.
func (i Info) PublicKeys() ([]*ecdsa.PublicKey, error) {
	var keys []*ecdsa.PublicKey
	for _, text := range i.Keys {
		k, err := image.ParsePublicKey([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("reading a key of this image: %w", err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// Verify checks a slot's signature and manifest as /init does: the chain from one
// of the image's own keys, and that the manifest is the one of this very
// initramfs. It returns the manifest and the digest that was signed. Nodes ask
// this of a new image before they start it, so that none is started whose /init
// would refuse it.
func (i Info) Verify(signature, manifest []byte) (*image.Manifest, string, error) {
	keys, err := i.PublicKeys()
	if err != nil {
		return nil, "", err
	}
	m, digest, err := image.Verify(signature, manifest, keys)
	if err != nil {
		return nil, "", err
	}
	if m.BuildID != i.BuildID || m.Stream != i.Stream {
		return nil, "", fmt.Errorf("the manifest is of build %s of stream %q, the initramfs is build %s of stream %q",
			m.BuildID, m.Stream, i.BuildID, i.Stream)
	}
	return m, digest, nil
}
