package updater

import (
	"context"
	"crypto/ecdsa"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/powercut"
)

// TestGoldenArtifact: the artifact in testdata/format1 was made when the first
// format was. However the format changes, every node from now on takes it:
// found and checked where it is kept, written to a slot, read back, started,
// and kept. It is never made anew.
func TestGoldenArtifact(t *testing.T) {
	text, err := os.ReadFile("../../shared/image/testdata/format1.pub")
	if err != nil {
		t.Fatal(err)
	}
	key, err := image.ParsePublicKey(text)
	if err != nil {
		t.Fatal(err)
	}
	keys := []*ecdsa.PublicKey{key}
	layout := registry.OpenLayout("../../shared/image/testdata/format1")
	img, err := registry.Open(context.Background(), layout, "1.0", registry.Want{Keys: keys, Arch: "arm64", Stream: "lab"})
	if err != nil {
		t.Fatal(err)
	}
	const digest = "sha256:60a7bc5781644523244ac093b2e20384d550d421d1b766eea0617a03b684245d"
	if img.Digest != digest || img.Release != "1.0" {
		t.Errorf("it is %s %s", img.Release, img.Digest)
	}
	l := newLife(t, newImage(t, "0.9"))
	l.keys, l.board = append(l.keys, key), "vm"
	l.info = func(io.Reader) (cmdline.Info, error) { // its initramfs is a line of text
		return cmdline.Info{Stream: "lab", BuildID: strings.Repeat("ab", 16), Keys: []string{string(text)}}, nil
	}
	l.start("", PowerOn)
	if err := l.through(l.add(img.Image, true)); err != nil {
		t.Fatal(err)
	}
	l.is(slots.B, "1.0", slots.Finished)
	for _, f := range powercut.Firmwares {
		if got, err := powercut.Whole(l.card.Card, slots.B, keys, f.Firmware); err != nil || got != digest {
			t.Errorf("%s: %s (%v)", f.Name, got, err)
		}
	}
}
