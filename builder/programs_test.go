package builder

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/builder/deviceprogs"
	"github.com/pikelet-os/pikelet/builder/lock"
	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/overlays"
)

// planOf returns a plan with overlays that add a program whose content is text.
func planOf(t *testing.T, text string, programs ...string) (*Plan, error) {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	p := &Plan{
		Image: &spec.Image{}, Programs: deviceprogs.Programs{Others: map[string][]byte{"pikelet-rollout": b.Bytes()}},
		Overlays: []overlays.Overlay{{Name: "base"}, {Name: "mine", Programs: programs}},
	}
	return p, p.addPrograms()
}

// TestOverlaysAddPrograms: a program that an overlay adds is unpacked, is in the lock
// and in what the image's bytes depend on; one that pikelet does not have is an error.
func TestOverlaysAddPrograms(t *testing.T) {
	p, err := planOf(t, "ELF", "pikelet-rollout")
	if err != nil || string(p.Added["pikelet-rollout"]) != "ELF" {
		t.Fatalf("added %q, %v", p.Added, err)
	}
	if got := p.programs()["pikelet-rollout"]; got != image.DigestOf([]byte("ELF")) {
		t.Errorf("the lock has %q", got)
	}
	other, err := planOf(t, "another ELF", "pikelet-rollout")
	if err != nil || bytes.Equal(p.identity(), other.identity()) {
		t.Errorf("another program makes the same image (%v)", err)
	}
	without, err := planOf(t, "ELF")
	if err != nil || len(without.Added) > 0 || len(without.programs()) != 2 {
		t.Errorf("an image without the overlay has the programs %q, %v", without.programs(), err)
	}
	_, err = planOf(t, "ELF", "pikelet-ghost")
	const want = `overlay "mine": programs: pikelet has no program "pikelet-ghost" for nodes; it has pikelet-rollout, pikelet-backup`
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	// A lock of another build of the program: the image will differ, with a warning.
	p.Notes = nil
	in := Inputs{Lock: &lock.File{World: p.world(), Programs: map[string]string{"pikelet-rollout": "sha256:other"}}}
	if err := p.fromLock(in); err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, n := range p.Notes {
		said = append(said, n.String())
	}
	if got := strings.Join(said, "\n"); !strings.Contains(got, "pikelet-rollout") {
		t.Errorf("notes %q", got)
	}
}
