package builder

import (
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/layers/apk"
	"github.com/pikelet-os/pikelet/overlays"
)

// TestOptionsFitTheK3sOfTheImage: the build knows which k3s will read the
// inventory's options.
func TestOptionsFitTheK3sOfTheImage(t *testing.T) {
	const agent = "nodes:\n- {hostname: a, k3s: {role: agent, server: 'https://10.0.0.1:6443', options: {nonroot-devices: true}}}\n"
	alpine := func(version string) *Plan {
		return &Plan{Packages: []Package{{Package: &apk.Package{Name: "k3s", Version: version}}}}
	}
	release := func(url string) *Plan {
		return &Plan{Overlays: []overlays.Overlay{{Fetch: []overlays.Fetch{{URL: url, Unpack: overlays.UnpackK3s}}}}}
	}
	for name, c := range map[string]struct {
		plan *Plan
		want string
	}{
		"a new package":  {alpine("1.34.2.1-r6"), ""},
		"an old package": {alpine("1.27.9.1-r0"), "nodes.yaml:2: k3s.options.nonroot-devices: k3s v1.27 of the image does not take it"},
		"a new release":  {release("https://x.test/v1.36.2%2Bk3s1/k3s-arm64"), ""},
		"an old release": {release("https://x.test/v1.26.15%2Bk3s1/k3s-arm64"), "k3s v1.26 of the image"},
		"a file":         {release("/srv/k3s-arm64"), ""},
		"no k3s":         {&Plan{}, ""},
	} {
		c.plan.Image, c.plan.Inventory = &spec.Image{Inventory: "nodes.yaml"}, []byte(agent)
		err := c.plan.checkRelease()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	p := alpine("1.27.9.1-r0")
	p.Image, p.Inventory = &spec.Image{Inventory: "nodes.yaml"}, []byte(strings.Replace(agent, "agent", "server", 1))
	if err := p.checkRelease(); err != nil || len(p.Notes) != 1 || !strings.Contains(lines(p.Notes), "and skips it") {
		t.Errorf("a server: got %v, notes %q", err, p.Notes)
	}
	if err := alpine("1.27.9.1-r0").checkRelease(); err != nil {
		t.Errorf("without an inventory: %v", err)
	}
}
