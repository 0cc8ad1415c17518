package cli

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/host/cosign"
	"github.com/pikelet-os/pikelet/internal/host/publish"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
)

// TestPublishPatches: a release is published with a patch for the one before,
// signed as all is; it goes along to mirrors and into archives, and nodes of
// whoever does not trust its key do not see it.
func TestPublishPatches(t *testing.T) {
	dir := shippedIn(t)
	s := startRegistry(t, registrytest.Options{})
	repo := s.Addr + "/os/twin"
	ok := func(t *testing.T, dir string, args ...string) string {
		t.Helper()
		out, code := pikelet(t, dir, []string{passwordVariable + "=open sesame"}, args...)
		if code != 0 {
			t.Fatalf("%v: exit %d\n%s", args, code, out)
		}
		return out
	}
	release := func(to, img string, more ...string) string {
		t.Helper()
		return ok(t, dir, append([]string{"publish", to, "--plain-http", "--key", "ci.pub", "--image", img}, more...)...)
	}
	release(repo, "one", "--sign-key", "ci.key")
	if out := release(repo, "two"); !strings.Contains(out, "no patches were made, the signing key is not in the image "+
		"spec\nhint: nodes accept only patches signed by a key of the spec: name one with --sign-key") {
		t.Errorf("without a key:\n%s", out)
	}
	if out := release(repo, "two", "--sign-key", "ci.key", "--from", "0"); strings.Contains(out, "patch") {
		t.Errorf("with --from 0:\n%s", out)
	}
	if out := release(repo, "two", "--sign-key", "ci.key"); !strings.Contains(out, "published a patch from=1.0 bytes=") {
		t.Errorf("it says\n%s", out)
	}
	var result struct {
		Result struct {
			Patches []publish.Patch
		}
	}
	lines := strings.Split(strings.TrimSpace(release(repo, "two", "--sign-key", "ci.key", "--json")), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &result); err != nil || len(result.Result.Patches) != 1 ||
		result.Result.Patches[0].From != "1.0" || result.Result.Patches[0].Bytes == 0 {
		t.Errorf("once more, as JSON: %+v, %v", result, err)
	}
	if out := ok(t, dir, "diff", "--plain-http", "one", repo+":1.1"); !strings.Contains(out, "\n  by a patch: 0.0") ||
		!strings.Contains(out, "or by the files that changed: ") || !strings.Contains(out, "or by the whole image: ") {
		t.Errorf("diff says\n%s", out)
	}

	// Carried in an archive, to another registry.
	ok(t, dir, "pull", "--plain-http", "--key", "ci.pub", repo+":1.1", "-o", "carried.tar")
	m := startRegistry(t, registrytest.Options{})
	release(m.Addr+"/mirror/twin", "carried.tar", "--from", "0")
	read := func(name string) []*ecdsa.PublicKey {
		keys, err := cosign.ReadPublicKeys([]string{dir + "/" + name})
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	ok(t, dir, "keygen", "-o", "o")
	was := findsPatch(t, repo+":1.1", dir, read("ci.pub"))
	for _, ref := range []string{m.Addr + "/mirror/twin:1.1", dir + "/carried.tar"} {
		if p := findsPatch(t, ref, dir, read("ci.pub")); p == nil || was == nil || p.Blob.Digest != was.Blob.Digest {
			t.Errorf("%s has the patch %+v; want %+v", ref, p, was)
		}
	}
	if p := findsPatch(t, repo+":1.1", dir, read("o.pub")); p != nil {
		t.Errorf("a patch by an untrusted key: %+v", p)
	}
	// Signed by another key, whose nodes then find it.
	ok(t, dir, "sign", "--plain-http", "--sign-key", "o.key", repo+":1.1")
	if p := findsPatch(t, repo+":1.1", dir, read("o.pub")); p == nil {
		t.Error("it was signed, and is not found")
	}
	// A key that the old release's nodes do not know signs no patch for them.
	if out := release(m.Addr+"/mirror/twin", "one", "--from", "3"); strings.Contains(out, "a patch") {
		t.Errorf("the first release:\n%s", out)
	}
	if out := release(repo, "two", "--sign-key", "o.key"); !strings.Contains(out,
		`no patch for an earlier release release=1.0 err="nodes of the earlier release do not trust the signing key"`) {
		t.Errorf("with another key:\n%s", out)
	}
	fails(t, dir, []string{"publish", repo, "--from", "out"}, "--from")
	fails(t, dir, []string{"publish", repo, "--from", "21"}, "want 0 to 20 releases")
}

// findsPatch returns the patch for release one that a node would find.
func findsPatch(t *testing.T, ref, dir string, keys []*ecdsa.PublicKey) *registry.Patch {
	t.Helper()
	ctx := context.Background()
	place, tag, err := registry.Locate(ref, registry.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(dir + "/one/signature.json")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := image.DecodeSignature(b)
	if err != nil {
		t.Fatal(err)
	}
	ci, err := cosign.ReadPublicKeys([]string{dir + "/ci.pub"})
	if err != nil {
		t.Fatal(err)
	}
	img, err := registry.Open(ctx, place, tag, registry.Want{Keys: ci, Arch: publish.Arch})
	if err != nil {
		t.Fatal(err)
	}
	p, err := registry.FindPatch(ctx, img, image.DigestOf(sig.Manifest), keys)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
