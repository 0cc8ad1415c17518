package apk

import (
	"archive/tar"
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha1" // #nosec: what Alpine's RSA signatures are made over
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// Keyring holds the public keys that may sign, by the file name the
// signatures call them (docs/platform.md 5.2).
type Keyring map[string]*rsa.PublicKey

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
	key, ok := pub.(*rsa.PublicKey)
	if !ok {
		return fmt.Errorf("reading the key %q: apk signs with RSA keys only", name)
	}
	k[name] = key
	return nil
}

// Fingerprint names the keys of the ring: what one ring accepts, another with
// the same fingerprint does.
func (k Keyring) Fingerprint() string {
	var list []string
	for name, key := range k {
		sum := sha256.Sum256(x509.MarshalPKCS1PublicKey(key))
		list = append(list, fmt.Sprintf("%q %x", name, sum))
	}
	sort.Strings(list)
	return strings.Join(list, ",")
}

func (k Keyring) names() string {
	var list []string
	for name := range k {
		list = append(list, name)
	}
	sort.Strings(list)
	return strings.Join(list, ", ")
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

// verify checks that one signature of a signature member is good for body and
// made by a key of the ring. Signatures of unknown keys are passed over.
func (k Keyring) verify(member, body []byte) error {
	gz, err := newGzipReader(bytes.NewReader(member))
	if err != nil {
		return err
	}
	defer gz.Close()
	tr := tar.NewReader(io.LimitReader(gz, maxSign))
	var seen []string
	for {
		h, err := tr.Next()
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			break // the member is cut: no end-of-archive blocks
		}
		if err != nil {
			return fmt.Errorf("its signature: %w", err)
		}
		rest, ok := strings.CutPrefix(h.Name, ".SIGN.")
		if !ok {
			return fmt.Errorf("it has no signature (it begins with %q)", h.Name)
		}
		alg, name, _ := strings.Cut(rest, ".")
		hash, known := algorithms[alg]
		key := k[name]
		seen = append(seen, name)
		if !known || key == nil {
			continue
		}
		sig, err := io.ReadAll(tr)
		if err != nil {
			return fmt.Errorf("its signature: %w", err)
		}
		if err := rsa.VerifyPKCS1v15(key, hash, digest(hash, body), sig); err != nil {
			return fmt.Errorf("its signature by %q is wrong: it was changed after it was signed", name)
		}
		return nil
	}
	if len(seen) == 0 {
		return errors.New("it has no signature")
	}
	return fmt.Errorf("it is signed by %s, and the keys given are %s", strings.Join(seen, ", "), k.names())
}

type tarFile struct {
	name string
	data []byte
}

// gzipTar returns a gzipped tar of plain files owned by root, with or without
// the end-of-archive blocks.
func gzipTar(files []tarFile, end bool) ([]byte, error) {
	var out bytes.Buffer
	gz, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	tw := tar.NewWriter(gz)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.data)), Format: tar.FormatUSTAR}
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
