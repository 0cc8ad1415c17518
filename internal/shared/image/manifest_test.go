package image

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestManifestRefuses(t *testing.T) {
	for what, spoil := range map[string]func(*Manifest){
		"format":       func(m *Manifest) { m.Format = 2 },
		"stream":       func(m *Manifest) { m.Stream = "" },
		"build id":     func(m *Manifest) { m.BuildID = "x" },
		"path":         func(m *Manifest) { m.Files[0].Name = "../x" },
		"absolute":     func(m *Manifest) { m.Files[0].Name = "/x" },
		"digest":       func(m *Manifest) { m.Files[0].Digest = "sha256:" },
		"size":         func(m *Manifest) { m.Files[0].Size = -1 },
		"twice":        func(m *Manifest) { m.Files = append(m.Files, m.Files[0]) },
		"root size":    func(m *Manifest) { m.Root.DataBlocks++ },
		"no root":      func(m *Manifest) { m.Files = m.Files[:2] },
		"no slot size": func(m *Manifest) { m.SlotSize = 0 },
	} {
		m := sample()
		spoil(m)
		if _, err := m.Encode(); err == nil {
			t.Errorf("%s: encoded without an error", what)
		}
		b, _ := json.Marshal(m)
		if _, err := DecodeManifest(b); err == nil {
			t.Errorf("%s: decoded without an error", what)
		}
	}
	if _, err := DecodeManifest([]byte(`{"format":1,"surprise":true}`)); err == nil || !strings.Contains(err.Error(), "surprise") {
		t.Errorf("an unknown field: %v", err)
	}
}

func FuzzManifestRoundTrip(f *testing.F) {
	b, _ := sample().Encode()
	f.Add(b)
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeManifest(b)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatalf("decoded, not encoded: %v", err)
		}
		m2, err := DecodeManifest(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, m2); diff != "" {
			t.Fatalf("another manifest (-first +second):\n%s", diff)
		}
	})
}

func TestCompareReleases(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"1.0", "1.0", 0},
		{"1.9", "1.10", -1},
		{"2", "1.99.3", 1},
		{"1.0.1", "1.0", 1},
		{"1.0", "1", 0},
		{"01.2", "1.2", 0},
		{"10", "9", 1},
		{"1.0", "1.0.0.1", -1},
	} {
		for _, flipped := range []bool{false, true} {
			a, b, want := c.a, c.b, c.want
			if flipped {
				a, b, want = b, a, -want
			}
			if got := CompareReleases(a, b); (got > 0) != (want > 0) || (got < 0) != (want < 0) {
				t.Errorf("%s and %s: %d, want %d", a, b, got, want)
			}
		}
	}
}
