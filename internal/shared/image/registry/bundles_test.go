package registry

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// signInBundle signs a digest on a shelf as cosign 3 does.
func signInBundle(t testing.TB, s *shelf, digest string, key *ecdsa.PrivateKey) bundle {
	t.Helper()
	signed, err := image.SignBundle(digest, key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBundle(signed, image.Describe(s.blobs[digest]), &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := addBundles(context.Background(), s, digest, []bundle{b}); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestEitherForm: an image is signed if either form verifies, and only then. A
// bundle that does not verify is as if absent.
func TestEitherForm(t *testing.T) {
	theirs := newKey(t)
	damage := func(s *shelf, d string) { s.tags[image.CosignTag(d)] = s.put([]byte("<html>")) }
	for name, c := range map[string]struct {
		classic bool
		make    func(t *testing.T, s *shelf, m *making, digest string) // for index and manifest
		want    string                                                 // "" is accepted
	}{
		"classic alone": {true, nil, ""},
		"bundles alone": {false, func(t *testing.T, s *shelf, m *making, d string) { signInBundle(t, s, d, m.key) }, ""},
		"both":          {true, func(t *testing.T, s *shelf, m *making, d string) { signInBundle(t, s, d, m.key) }, ""},
		"neither":       {false, nil, "not signed"},
		"a bundle by another key": {false, func(t *testing.T, s *shelf, m *making, d string) { signInBundle(t, s, d, theirs) },
			"none of the 1 keys that are trusted made it"},
		"a good one among others": {false, func(t *testing.T, s *shelf, m *making, d string) {
			for range 5 {
				signInBundle(t, s, d, newKey(t))
			}
			signInBundle(t, s, d, m.key)
		}, ""},
		"classic, and a bundle by another key": {true, func(t *testing.T, s *shelf, m *making, d string) { signInBundle(t, s, d, theirs) }, ""},
		"a damaged classic one and a bundle": {false, func(t *testing.T, s *shelf, m *making, d string) {
			signInBundle(t, s, d, m.key)
			damage(s, d)
		}, ""},
		"a damaged classic one and a bundle by another key": {false, func(t *testing.T, s *shelf, m *making, d string) {
			signInBundle(t, s, d, theirs)
			damage(s, d)
		}, "reading an OCI manifest"},
		"a bundle of something else": {false, func(t *testing.T, s *shelf, m *making, d string) {
			signed, err := image.SignBundle(image.DigestOf([]byte("else")), m.key)
			if err != nil {
				t.Fatal(err)
			}
			b, err := newBundle(signed, image.Describe(s.blobs[d]), &m.key.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			if err := putBundle(context.Background(), s, b); err != nil {
				t.Fatal(err)
			}
		}, "was signed"},
		"a bundle that refers to something else": {false, func(t *testing.T, s *shelf, m *making, d string) {
			signed, err := image.SignBundle(d, m.key)
			if err != nil {
				t.Fatal(err)
			}
			b, err := newBundle(signed, image.Describe([]byte("else")), &m.key.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			if err := putBundle(context.Background(), s, b); err != nil {
				t.Fatal(err)
			}
			s.list = append(s.list, image.Describe(b.manifest)) // and is listed all the same
		}, "not signed"},
		"a bundle that is listed and not there": {true, func(t *testing.T, s *shelf, m *making, d string) {
			s.list = append(s.list, image.Descriptor{ArtifactType: image.MediaBundle, Digest: image.DigestOf([]byte("gone")), Size: 700})
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, m := newShelf(), newMaking(t, "1.0")
			m.unsigned["oci"], m.unsigned["index"] = !c.classic, !c.classic
			digest := m.onto(t, s, "1.0")
			if c.make != nil {
				c.make(t, s, m, digest)
				c.make(t, s, m, s.tags["1.0"])
			}
			_, err := Open(context.Background(), s, "1.0", Want{Keys: []*ecdsa.PublicKey{&m.key.PublicKey}, Arch: "arm64"})
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
}

// TestManyBundles: how many bundles are read is bounded, and a list of many others
// keeps none of them from being found.
func TestManyBundles(t *testing.T) {
	ctx := context.Background()
	s, m := newShelf(), newMaking(t, "1.0")
	digest := m.onto(t, s, "1.0")
	for range image.MaxSignatures + 2 {
		signed := image.Signed{Payload: signInBundle(t, s, digest, m.key).signed.Payload, Signature: []byte(t.Name() + s.put(nil))}
		signed.Signature = append(signed.Signature, byte(len(s.blobs)), byte(len(s.blobs)>>8))
		b, err := newBundle(signed, image.Describe(s.blobs[digest]), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := putBundle(ctx, s, b); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := bundles(ctx, s, digest); err != nil || len(found) != image.MaxSignatures {
		t.Errorf("%d, %v", len(found), err)
	}
}

// TestBundlesTravel: bundles go along with an image as they are, from a registry
// into a layout, an archive, and on, with the entry of a log that they may hold, and
// those of keys that are not trusted here, as classic signatures do.
func TestBundlesTravel(t *testing.T) {
	ctx := context.Background()
	s, m := newShelf(), newMaking(t, "1.0")
	m.unsigned["oci"], m.unsigned["index"] = true, true
	digest := m.onto(t, s, "1.0")
	keys := []*ecdsa.PublicKey{&m.key.PublicKey}
	bill := s.refer(t, digest, nil)
	signInBundle(t, s, bill, m.key)
	signInBundle(t, s, s.tags["1.0"], m.key)
	signInBundle(t, s, digest, m.key)
	signed, err := image.SignBundle(digest, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	logged, err := newBundle(signed, image.Describe(s.blobs[digest]), nil)
	if err != nil {
		t.Fatal(err)
	}
	logged.text = []byte(strings.Replace(string(logged.text), `{"publicKey"`, `{"tlogEntries":[{}],"publicKey"`, 1))
	if logged.manifest, _, err = image.EncodeBundleManifest(logged.text, image.Describe(s.blobs[digest])); err != nil {
		t.Fatal(err)
	}
	if err := putBundle(ctx, s, logged); err != nil {
		t.Fatal(err)
	}
	want := digests(t, s, digest)
	if len(want) != 2 {
		t.Fatalf("the shelf has %d bundles", len(want))
	}
	img := throughArchive(t, s, keys)
	for _, api := range []bool{false, true} {
		server := quirky(t, api, nil)
		for range 2 {
			if err := Copy(ctx, img, at(t, server, Options{}), []string{"1.0"}, nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		there := at(t, server, Options{})
		if got := digests(t, there, digest); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
			t.Errorf("referrers API %v: %v, want %v", api, got, want)
		}
		back, err := Open(ctx, there, "1.0", Want{Keys: keys, Arch: "arm64"})
		if err != nil {
			t.Fatal(err)
		}
		if list, err := back.signedReferrers(ctx); err != nil || len(list) != 1 || image.DigestOf(list[0]) != bill {
			t.Errorf("referrers API %v: what refers to the image: %d, %v", api, len(list), err)
		}
	}
}

// digests returns the digests of the bundles of a digest.
func digests(t *testing.T, p Place, of string) []string {
	t.Helper()
	found, err := bundles(context.Background(), p, of)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, b := range found {
		list = append(list, image.DigestOf(b.manifest))
	}
	return list
}

// TestBothFormsAreWritten: what is signed on its way, and where it is, is signed in
// both forms, each once, and either one is enough.
func TestBothFormsAreWritten(t *testing.T) {
	ctx := context.Background()
	key, second := newKey(t), newKey(t)
	img, bill := signedImage(t)
	for _, api := range []bool{false, true} {
		to := at(t, quirky(t, api, nil), Options{})
		for range 2 {
			if err := Copy(ctx, img, to, []string{"1.0"}, key, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := Sign(ctx, to, "1.0", "arm64", second); err != nil {
				t.Fatal(err)
			}
		}
		for _, digest := range []string{img.Digest, image.DigestOf(img.Index), bill} {
			for _, k := range []*ecdsa.PrivateKey{key, second} {
				keys := []*ecdsa.PublicKey{&k.PublicKey}
				old, err := classic(ctx, to, digest)
				if err := errors.Join(err, image.VerifyDigest(digest, old, keys)); err != nil {
					t.Errorf("API %v: the classic form: %v", api, err)
				}
				found, err := bundles(ctx, to, digest)
				if err != nil || len(found) != 2 {
					t.Errorf("API %v: %d bundles, want 2 (%v)", api, len(found), err)
				}
				var list []image.Signed
				for _, b := range found {
					list = append(list, b.signed)
				}
				if err := image.VerifyDigest(digest, list, keys); err != nil {
					t.Errorf("API %v: bundles: %v", api, err)
				}
			}
		}
	}
}
