package builder

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/pikelet-os/pikelet/builder/lock"
	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/layers/apk"
	"github.com/pikelet-os/pikelet/layers/oci"
)

// TestLockedInputs: a locked build takes the layers, overlays, packages and
// repositories that were locked, and no others.
func TestLockedInputs(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "etc/a")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("locked")
	newPlan := func() *Plan {
		return &Plan{Image: &spec.Image{Layers: []spec.Layer{{Folder: dir}}, Packages: []string{"busybox"},
			Kernel: spec.Kernel{Package: "linux-rpi"}}}
	}
	first := newPlan()
	if err := first.pinLayers(context.Background(), Inputs{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := first.pinOverlays(nil); err != nil {
		t.Fatal(err)
	}
	first.Packages = []Package{{Package: &apk.Package{Name: "busybox", Version: "1", Identity: "Q1", Size: 1}}}
	pinned := func(change func(*Plan, *lock.File)) error {
		p, l := newPlan(), first.Lock("test")
		l.Layers = append([]lock.Layer(nil), l.Layers...)
		change(p, l)
		in := Inputs{Lock: l, Tool: "test"}
		if err := p.pinOverlays(l); err != nil {
			return err
		}
		if err := p.fromLock(in); err != nil && !strings.Contains(err.Error(), "comes from , which") { // there is no repository
			return err
		}
		return p.pinLayers(context.Background(), in, nil)
	}
	for what, c := range map[string]struct {
		change func(*Plan, *lock.File)
		want   string
	}{
		"the same":       {func(*Plan, *lock.File) {}, ""},
		"another file":   {func(*Plan, *lock.File) { write("changed") }, "the layer " + first.Layers[0].source() + " is sha256:"},
		"another digest": {func(_ *Plan, l *lock.File) { l.Layers[0].Digest = "sha256:00" }, "the lock has sha256:00"},
		"another name":   {func(_ *Plan, l *lock.File) { l.Layers[0].Name = "other" }, "the lock has no layer"},
		"no layer":       {func(_ *Plan, l *lock.File) { l.Layers = nil }, "the spec has 1 layers, the lock 0"},
		"another world":  {func(p *Plan, _ *lock.File) { p.Image.Packages = []string{"bash"} }, "the spec asks for the packages"},
		"another repository": {func(p *Plan, _ *lock.File) { p.Image.Repositories = []spec.Repository{{URL: "x"}} },
			"the spec has the repositories"},
		"no overlay": {func(_ *Plan, l *lock.File) { l.Overlays = nil }, "the spec has 1 overlays, the lock 0"},
		"another's overlay": {func(_ *Plan, l *lock.File) {
			l.Overlays = []lock.Layer{{Kind: "overlay", Name: "other", Digest: "sha256:00"}}
		}, "the overlay base is sha256:"},
		"the overlay's digest": {func(_ *Plan, l *lock.File) {
			l.Overlays = []lock.Layer{{Kind: "overlay", Name: "base", Digest: "sha256:00"}}
		}, ""}, // of another pikelet: noted
	} {
		err := pinned(c.change)
		write("locked")
		if (err == nil) != (c.want == "") || err != nil &&
			(!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "does not fit the spec")) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}

// TestCachedImageDigestIsChecked: a cached image that is not the one its name
// says is refused.
func TestCachedImageDigestIsChecked(t *testing.T) {
	dir := t.TempDir()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "arm64", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := layout.Write(dir, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img})); err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	platform := oci.Platform{OS: "linux", Architecture: "arm64"}
	if _, err := keptImage(context.Background(), dir, digest.String(), platform); err != nil {
		t.Error(err)
	}
	if _, err := keptImage(context.Background(), dir, "sha256:00", platform); err == nil ||
		!strings.Contains(err.Error(), "digest mismatch in the cache") {
		t.Errorf("another: %v", err)
	}
}
