package apk

import (
	"crypto"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/layers/apk/adb"
)

// A signature begins with a header that is signed too: version, digest, and
// the id of the key.
const (
	sign3Version = 0
	sign3Header  = 2 + keyIDSize
	keyIDSize    = 16
)

// digests3 are the digests of the block of values that a signature may be made
// over, by their number in apk_crypto.h.
var digests3 = map[byte]crypto.Hash{3: crypto.SHA256, 4: crypto.SHA512}

// signature3 is one block of a signature, as far as it is understood.
type signature3 struct {
	head, sig []byte
	known     bool // version and digest
}

func parseSignature3(b []byte) signature3 {
	if len(b) < sign3Header {
		return signature3{}
	}
	return signature3{head: b[:sign3Header], sig: b[sign3Header:], known: b[0] == sign3Version && digests3[b[1]] != 0}
}

func (s signature3) keyID() string { return hex.EncodeToString(s.head[2:]) }

// keyID returns the first half of what a key is known by: the beginning of the
// SHA-512 of its bytes.
func keyID(key crypto.PublicKey) string {
	sum := sha512.Sum512(encodeKey(key))
	return hex.EncodeToString(sum[:keyIDSize])
}

// verify3 checks that one signature is good for a block of values and made by a
// key of the ring, and returns ErrSignature otherwise. Signatures of unknown
// keys, and those of a kind that is not known, are passed over.
func (k Keyring) verify3(schema adb.Schema, values []byte, list []signature3) error {
	byID := map[string]string{} // file names of keys
	for _, name := range slices.Sorted(maps.Keys(k)) {
		byID[keyID(k[name])] = name
	}
	var strangers []string
	for _, s := range list {
		if !s.known {
			continue
		}
		name, there := byID[s.keyID()]
		if !there {
			strangers = append(strangers, s.keyID())
			continue
		}
		message := slices.Concat(schema[:], s.head, digest(digests3[s.head[1]], values))
		if !(signature{key: name, hash: crypto.SHA512, sig: s.sig}).by(k[name], message) {
			return fmt.Errorf("%w: the signature of %q does not match: the file was changed after it was signed", ErrSignature, name)
		}
		return nil
	}
	switch {
	case len(list) == 0:
		return fmt.Errorf("%w: the file is not signed", ErrSignature)
	case len(strangers) == 0:
		return fmt.Errorf("%w: no signature is of a known version and digest", ErrSignature)
	}
	err := fmt.Errorf("%w: signed with the key of id %s; the keys given are %s", ErrSignature, strings.Join(strangers, ", "), k.ids())
	return hint.With(err, "add the public key that has this id: the first 16 bytes of the SHA-512 of its DER form")
}

// ids lists the keys with what signatures of format 3 call them.
func (k Keyring) ids() string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(k)) {
		list = append(list, name+" ("+keyID(k[name])+")")
	}
	return strings.Join(list, ", ")
}
