package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/internal/artifact/registry"
)

// TestGoingBack: only a statement about this very image, by a key that counts,
// from the release that runs or a later one, lets a node go back.
func TestGoingBack(t *testing.T) {
	key, other := newKey(t), newKey(t)
	digest, another := artifact.DigestOf([]byte("old")), artifact.DigestOf([]byte("older"))
	state := func(of, from string, k *ecdsa.PrivateKey) artifact.Signed {
		s, err := artifact.SignDowngrade(of, artifact.Downgrade{Channel: "stable", From: from}, k)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	plain, err := artifact.SignDigest(digest, key)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		signed artifact.Signed
		runs   string
		want   bool
	}{
		"a statement":                  {state(digest, "1.10", key), "1.10", true},
		"from a later release":         {state(digest, "1.10", key), "1.9", true},
		"from an earlier release":      {state(digest, "1.10", key), "1.11", false},
		"an ordinary signature":        {plain, "1.10", false},
		"about another image":          {state(another, "1.10", key), "1.10", false},
		"by a key that does not count": {state(digest, "1.10", other), "1.10", false},
	} {
		img := &registry.Image{Digest: digest, Signatures: []artifact.Signed{c.signed}}
		if got := allowed(img, c.runs, []*ecdsa.PublicKey{&key.PublicKey}); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
