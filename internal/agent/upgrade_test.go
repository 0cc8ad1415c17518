package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/internal/artifact/registry"
	"github.com/pikelet-os/pikelet/internal/node"
	"github.com/pikelet-os/pikelet/internal/slots"
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

// TestNotNow: moments at which no upgrade begins.
func TestNotNow(t *testing.T) {
	for _, c := range []struct {
		b    node.Boot
		u    *slots.Update
		want string
	}{
		{node.Boot{Slot: slots.A, Kind: slots.Committed}, nil, ""},
		{node.Boot{Slot: slots.A, Kind: slots.Rescue}, nil, ""},
		{node.Boot{Slot: slots.A, Kind: slots.Committed}, &slots.Update{Step: slots.Left}, ""},
		{node.Boot{Slot: slots.A, Kind: slots.Committed}, &slots.Update{Step: slots.Finished}, ""},
		{node.Boot{Slot: slots.B, Kind: slots.Trial}, nil, "this boot is a trial"},
		{node.Boot{Slot: slots.A, Kind: slots.Committed}, &slots.Update{Step: slots.Armed, Release: "1.2"}, "release 1.2 is being tried"},
		{node.Boot{Slot: slots.Net, Kind: slots.Committed}, nil, "has no card"},
	} {
		err := mayUpgrade(c.b, c.u)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v %+v: %v; want %q", c.b, c.u, err, c.want)
		}
	}
	if got := initSaid("slot a: old\nslot b: checking the slot: it is broken", slots.B); got != "checking the slot: it is broken" {
		t.Errorf("what /init said of slot b: %q", got)
	}
	if got := initSaid("slot a: old", slots.B); got != "" {
		t.Errorf("what /init never said: %q", got)
	}
}
