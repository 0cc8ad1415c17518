package cosign

import (
	"bytes"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

func word(s string) func() ([]byte, error) { return func() ([]byte, error) { return []byte(s), nil } }

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCosignsOwn reads what cosign wrote: its key, its public key, a signature
// with annotations; and makes the very manifest that cosign stored.
func TestReadsKeysOfCosign(t *testing.T) {
	key, err := ParsePrivateKey(read(t, "testdata/cosign.key"), word("golden"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := ReadPublicKeys([]string{"testdata/cosign.pub"})
	if err != nil || !public[0].Equal(&key.PublicKey) {
		t.Fatalf("the two halves of cosign's key are not one key (%v)", err)
	}
	if text, err := image.EncodePublicKey(&key.PublicKey); err != nil || !bytes.Equal(text, read(t, "testdata/cosign.pub")) {
		t.Errorf("the public key's file is another than cosign's (%v)", err)
	}
	manifest, payload := read(t, "testdata/signed.json"), read(t, "testdata/payload.json")
	layers, err := image.DecodeCosign(manifest)
	if err != nil || len(layers) != 1 || layers[0].Digest != image.DigestOf(payload) || layers[0].Size != int64(len(payload)) {
		t.Fatalf("%+v %v", layers, err)
	}
	list := []image.Signed{{Payload: payload, Signature: layers[0].Signature}}
	const digest = "sha256:10f3f5ea2bde3bfced2a07df86484e5929a0ffee02eab26e8636dd466e603ca0"
	if err := image.VerifyDigest(digest, list, public); err != nil {
		t.Errorf("cosign's signature: %v", err)
	}
	if err := image.VerifyDigest(image.DigestOf(nil), list, public); err == nil || !strings.Contains(err.Error(), "was signed") {
		t.Errorf("of something else: %v", err)
	}
	if got := image.Downgrades(digest, list, public); len(got) != 1 || got[0] != (image.Downgrade{Channel: "stable", From: "1.10"}) {
		t.Errorf("the statement cosign made: %+v", got)
	}
	// The config that cosign makes says when it was made; ours says nothing.
	again, _, err := image.EncodeCosign(list)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := strings.Split(string(again), `"layers":`)[1], strings.Split(string(manifest), `"layers":`)[1]
	if normal(ours) != normal(theirs) {
		t.Errorf("stored as\n%s\ncosign stores\n%s", ours, theirs)
	}
}

// normal puts a layer's fields into one order.
func normal(layer string) string {
	i, j := strings.Index(layer, `"size":`), strings.Index(layer, `"digest":`)
	if i > j {
		size, _, _ := strings.Cut(layer[i:], ",")
		layer = layer[:j] + size + "," + strings.Replace(layer[j:], size+",", "", 1)
	}
	return layer
}

// TestGeneratedKeys: what Generate makes is read with its password only, in
// cosign's form.
func TestGeneratedKeys(t *testing.T) {
	private, public, err := Generate([]byte("open sesame"))
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(private); block == nil || block.Type != "ENCRYPTED SIGSTORE PRIVATE KEY" {
		t.Errorf("the key's file begins %.60q", private)
	}
	if _, err := ParsePrivateKey(private, word("wrong")); !errors.Is(err, ErrPassword) {
		t.Errorf("a wrong password: %v", err)
	}
	key, err := ParsePrivateKey(private, word("open sesame"))
	if err != nil {
		t.Fatal(err)
	}
	if k, err := image.ParsePublicKey(public); err != nil || !k.Equal(&key.PublicKey) {
		t.Errorf("the public half is another key's (%v)", err)
	}
	name := filepath.Join(t.TempDir(), "keys", "ci")
	if err := Write(name, private, public); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(name + ".key"); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the private key's file: %v %v", st.Mode(), err)
	}
	if err := Write(name, private, public); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a key that is there: %v", err)
	}
	for what, b := range map[string][]byte{"nothing": nil, "no PEM": []byte("hello"), "a public key": public,
		"a broken box": []byte("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\naGVsbG8=\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n")} {
		if _, err := ParsePrivateKey(b, word("")); err == nil {
			t.Errorf("%s: taken for a key", what)
		}
	}
}

func FuzzParsePrivateKey(f *testing.F) {
	b, err := os.ReadFile("testdata/cosign.key")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Replace(b, []byte("SIGSTORE"), []byte("COSIGN"), 1)[:60])
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParsePrivateKey(b, func() ([]byte, error) { return nil, errors.New("no password") })
		if err == nil && k == nil {
			t.Fatal("no key and no error")
		}
	})
}
