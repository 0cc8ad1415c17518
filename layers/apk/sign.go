package apk

import (
	"archive/tar"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha1" // #nosec: what Alpine's RSA signatures are made over
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Keyring holds the public keys that may sign, each an *rsa.PublicKey or an
// *ecdsa.PublicKey, by file name: signatures of format 2 call them by that
// (docs/platform.md 5.2).
type Keyring map[string]crypto.PublicKey

// Add reads a PEM public key, as in /etc/apk/keys.
func (k Keyring) Add(name string, b []byte) error {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" {
		return fmt.Errorf("reading the key %q: want a PEM block PUBLIC KEY", name)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("reading the key %q: %w", name, err)
	}
	switch key := pub.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey:
		k[name] = key
		return nil
	}
	return fmt.Errorf("reading the key %q: apk signs with RSA and ECDSA keys only", name)
}

// Fingerprint names the keys of the ring: what one ring accepts, another with
// the same fingerprint does.
func (k Keyring) Fingerprint() string {
	var list []string
	for name, key := range k {
		sum := sha256.Sum256(encodeKey(key))
		list = append(list, fmt.Sprintf("%q %x", name, sum))
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

// encodeKey returns a public key's own bytes: PKCS #1 of an RSA key, the
// uncompressed point of one of ECDSA.
func encodeKey(key crypto.PublicKey) []byte {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return x509.MarshalPKCS1PublicKey(key)
	case *ecdsa.PublicKey:
		if point, err := key.ECDH(); err == nil {
			return point.Bytes()
		}
	}
	return nil
}

func (k Keyring) names() string {
	return strings.Join(slices.Sorted(maps.Keys(k)), ", ")
}

// algorithms by the word in a signature's file name.
var algorithms = map[string]crypto.Hash{"RSA": crypto.SHA1, "RSA256": crypto.SHA256, "RSA512": crypto.SHA512}

func digest(h crypto.Hash, b []byte) []byte {
	switch h {
	case crypto.SHA1:
		sum := sha1.Sum(b) // #nosec: format
		return sum[:]
	case crypto.SHA256:
		sum := sha256.Sum256(b)
		return sum[:]
	}
	sum := sha512.Sum512(b)
	return sum[:]
}

// ErrSignature is returned for an index or a package without a valid signature of
// a key in the ring.
var ErrSignature = errors.New("no valid signature by a trusted key")

// signature is one file of a signature member.
type signature struct {
	key  string // the public key's file name
	hash crypto.Hash
	sig  []byte
}

// by reports whether the signature of body is that of a key.
func (s signature) by(key crypto.PublicKey, body []byte) bool {
	if s.hash == 0 {
		return false
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, s.hash, digest(s.hash, body), s.sig) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, digest(s.hash, body), s.sig)
	}
	return false
}

// verify checks that one signature of a signature member is good for body and
// made by a key of the ring, and returns ErrSignature otherwise. Signatures of
// unknown keys are passed over.
func (k Keyring) verify(member, body []byte) error {
	list, err := readSignatures(member)
	if err != nil {
		return err
	}
	for _, s := range list {
		key := k[s.key]
		if key == nil || s.hash == 0 {
			continue
		}
		if !s.by(key, body) {
			return fmt.Errorf("%w: the signature of %q does not match: the file was changed after it was signed", ErrSignature, s.key)
		}
		return nil
	}
	if len(list) == 0 {
		return fmt.Errorf("%w: the file is not signed", ErrSignature)
	}
	return k.unknown(list, body)
}

// unknown is the error for signatures that no key of the ring has the name for.
// Its hint tells a key that has another file name from one that is missing.
func (k Keyring) unknown(list []signature, body []byte) error {
	var signers []string
	for _, s := range list {
		signers = append(signers, s.key)
	}
	err := fmt.Errorf("%w: signed with %s; the keys given are %s", ErrSignature, strings.Join(signers, ", "), k.names())
	for _, s := range list {
		for _, name := range slices.Sorted(maps.Keys(k)) {
			if name != s.key && s.by(k[name], body) {
				return hint.Withf(err, "%s is the right key under another name: rename the file to %s", name, s.key)
			}
		}
	}
	return hint.Withf(err, "add the public key %s, under that file name", signers[0])
}

// readSignatures reads a signature member.
func readSignatures(member []byte) ([]signature, error) {
	gz, err := newGzipReader(bytes.NewReader(member))
	if err != nil {
		return nil, err
	}
	defer gz.Close()
	tr := tar.NewReader(io.LimitReader(gz, maxSign))
	var list []signature
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return list, nil // the member has no end-of-archive blocks
		}
		if err != nil {
			return nil, fmt.Errorf("reading the signature: %w", err)
		}
		rest, ok := strings.CutPrefix(h.Name, ".SIGN.")
		if !ok {
			return nil, fmt.Errorf("%w: the file is not signed (it begins with %q)", ErrSignature, h.Name)
		}
		alg, name, _ := strings.Cut(rest, ".")
		sig, err := io.ReadAll(tr)
		if err != nil {
			return nil, fmt.Errorf("reading the signature: %w", err)
		}
		list = append(list, signature{name, algorithms[alg], sig})
	}
}

type tarFile struct {
	name string
	data []byte
}

// gzipTar returns a gzipped tar of plain files owned by root, with or without
// the end-of-archive blocks.
func gzipTar(files []tarFile, end bool) ([]byte, error) { return writeTar(files, 0, end) }

// writeTar is gzipTar with a time for the files, seconds since 1970.
func writeTar(files []tarFile, written int64, end bool) ([]byte, error) {
	var out bytes.Buffer
	gz, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	tw := tar.NewWriter(gz)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.data)),
			ModTime: time.Unix(written, 0), Format: tar.FormatUSTAR}
		if err := tw.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := tw.Write(f.data); err != nil {
			return nil, err
		}
	}
	if end {
		err = tw.Close()
	} else {
		err = tw.Flush()
	}
	if err != nil {
		return nil, err
	}
	if err := gz.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
