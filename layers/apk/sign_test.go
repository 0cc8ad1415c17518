package apk

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// signedWith returns a signature member over body as abuild-sign makes it.
func signedWith(t *testing.T, key *Key, word string, hash crypto.Hash, body []byte) []byte {
	t.Helper()
	sig, err := rsa.SignPKCS1v15(nil, key.Private, hash, digest(hash, body))
	if err != nil {
		t.Fatal(err)
	}
	b, err := gzipTar([]tarFile{{".SIGN." + word + "." + key.Name, sig}}, false)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSignatureAlgorithms: Alpine signs with RSA over SHA-1; RSA256 and RSA512
// are what abuild-sign -t makes.
func TestSignatureAlgorithms(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	body := []byte("what is signed")
	for word, hash := range map[string]crypto.Hash{"RSA": crypto.SHA1, "RSA256": crypto.SHA256, "RSA512": crypto.SHA512} {
		member := signedWith(t, key, word, hash, body)
		if err := ring.verify(member, body); err != nil {
			t.Errorf("%s: %v", word, err)
		}
		if err := ring.verify(member, []byte("something else")); err == nil || !strings.Contains(err.Error(), "changed after it was signed") {
			t.Errorf("%s over another body: %v", word, err)
		}
		for other, wrong := range map[string]crypto.Hash{"RSA": crypto.SHA1, "RSA256": crypto.SHA256, "RSA512": crypto.SHA512} {
			if other != word && ring.verify(signedWith(t, key, other, hash, body), body) == nil {
				t.Errorf("a signature over %v passes for %s (%v)", hash, other, wrong)
			}
		}
	}
	if err := ring.verify(signedWith(t, key, "DSA", crypto.SHA256, body), body); err == nil ||
		!strings.Contains(err.Error(), "signed with test.rsa.pub") {
		t.Errorf("an unknown algorithm: %v", err)
	}
	// Of several signatures, one of a known key is enough.
	two, err := gzipTar([]tarFile{{".SIGN.RSA512.stranger.rsa.pub", []byte("x")}}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.verify(append(two, signedWith(t, key, "RSA512", crypto.SHA512, body)...), body); err != nil {
		t.Errorf("behind a stranger's signature: %v", err)
	}
}

// TestKeysUnderAnotherName: the error for a key with the wrong file name says how
// to rename the file; for a key that is missing, which one to add.
func TestKeysUnderAnotherName(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	_, foreign := newKey(t, "a.rsa.pub")
	body := []byte("what is signed")
	member := signedWith(t, key, "RSA256", crypto.SHA256, body)
	renamed := Keyring{"a.rsa.pub": foreign["a.rsa.pub"], "downloaded.pub": ring["test.rsa.pub"]}
	for _, c := range []struct {
		name string
		ring Keyring
		want string
	}{
		{"another name", renamed, "downloaded.pub is the right key under another name: rename the file to test.rsa.pub"},
		{"another key", foreign, "add the public key test.rsa.pub, under that file name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.ring.verify(member, body)
			if got := strings.Join(hint.Of(err), "\n"); !errors.Is(err, ErrSignature) || got != c.want {
				t.Errorf("%v, hint %q, want %q", err, got, c.want)
			}
		})
	}
}

// TestMembersAreBounded: no part of a package or an index is unpacked further
// than its limit.
func TestMembersAreBounded(t *testing.T) {
	member, err := gzipTar([]tarFile{{".PKGINFO", make([]byte, 4<<20)}}, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := memberEnd(bytes.NewReader(member), 1<<20); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("a member of 4 MiB, of which 1 is allowed: %v", err)
	}
	if _, err := readTar(member, 1<<20); err == nil {
		t.Error("an archive of 4 MiB, of which 1 is allowed, was read")
	}
	if n, err := memberEnd(bytes.NewReader(append(bytes.Clone(member), "rest"...)), 5<<20); err != nil || n != int64(len(member)) {
		t.Errorf("within the limit: %d of %d bytes, %v", n, len(member), err)
	}
}

func FuzzParseDep(f *testing.F) {
	for _, s := range []string{"a", "!a", "a@edge>=1.2-r0", "so:libc.so.6", "cmd:x=1", "a><Q1abc=", "a<~1", "pc:librtmp=v2.4", "/bin/sh"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := parseDep(s)
		if err != nil {
			return
		}
		again, err := parseDep(d.String())
		if err != nil || again != d {
			t.Fatalf("%q is %+v, written %q and read %+v (%v)", s, d, d.String(), again, err)
		}
		d.allows("1.0-r0", "Q1")
		ParseDep(s)
	})
}

// TestIndexTimeIsSigned: an index keeps the time it was made, and with another one its signature fails.
func TestIndexTimeIsSigned(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	for _, written := range []int64{0, 1700000000} {
		b, err := WriteIndex(&Index{Written: written, Packages: []*Package{{Name: "a", Version: "1", Identity: "Q1x="}}}, key)
		if err != nil {
			t.Fatal(err)
		}
		x, err := ReadIndex(b, ring)
		if err != nil || x.Written != written {
			t.Fatalf("read back %+v, %v", x, err)
		}
		later, err := WriteIndex(&Index{Written: written + 1, Packages: x.Packages}, key)
		if err != nil {
			t.Fatal(err)
		}
		sign, _, err := splitMember(b, maxSign)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, err := splitMember(later, maxSign)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadIndex(slices.Concat(sign, rest), ring); !errors.Is(err, ErrSignature) {
			t.Errorf("made at another time: %v", err)
		}
	}
}
