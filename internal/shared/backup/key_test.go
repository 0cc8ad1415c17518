package backup

import (
	"bytes"
	"errors"
	"maps"
	"testing"
)

// TestKeyOfOneBackup: the key of a backup opens that one alone.
func TestKeyOfOneBackup(t *testing.T) {
	identity := newKey(t)
	one, other := write(t, identity, files()), write(t, identity, files())
	key, err := KeyOf(bytes.NewReader(one[:len(one)-10]), identity)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := DecryptWith(bytes.NewReader(one), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, got, err := extract(plain); err != nil || !maps.Equal(got, files()) {
		t.Errorf("got %d files, %v", len(got), err)
	}
	if _, err := DecryptWith(bytes.NewReader(other), key); !errors.Is(err, ErrKey) {
		t.Errorf("of another backup: got error %v, want %v", err, ErrKey)
	}
	for _, key := range []string{"", "!", "AAAA", identity.String()} {
		if _, err := DecryptWith(bytes.NewReader(one), key); !errors.Is(err, ErrKey) {
			t.Errorf("%q: got error %v, want %v", key, err, ErrKey)
		}
	}
	if _, err := KeyOf(bytes.NewReader(one), newKey(t)); !errors.Is(err, ErrKey) {
		t.Errorf("with another identity: got error %v, want %v", err, ErrKey)
	}
	if _, err := KeyOf(bytes.NewReader(one)); !errors.Is(err, ErrKey) {
		t.Errorf("without an identity: got error %v, want %v", err, ErrKey)
	}
	if _, err := KeyOf(bytes.NewReader(one[:50]), identity); !errors.Is(err, ErrDamaged) {
		t.Errorf("cut off: got error %v, want %v", err, ErrDamaged)
	}
}
