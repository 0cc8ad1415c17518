package apk

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Key signs packages and indexes.
type Key struct {
	Name    string // the public key's file name
	Private *rsa.PrivateKey
}

// OpenKey reads the private key in file, or makes one there on first use, and
// calls it name.
func OpenKey(file, name string) (*Key, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		private, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		b = pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)})
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, hint.With(fmt.Errorf("reading key %q: no PEM block found", file), "remove the file to get a new key")
	}
	private, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		return nil, hint.With(fmt.Errorf("reading key %q: %w", file, err), "remove the file to get a new key")
	}
	return &Key{Name: name, Private: private}, nil
}

// Public returns the public key as PEM, as it lies in /etc/apk/keys.
func (k *Key) Public() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(&k.Private.PublicKey)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// sign returns a signature member over body: RSA with SHA-256, which
// apk-tools knows since 2.12.
func (k *Key) sign(body []byte) ([]byte, error) {
	sum := sha256.Sum256(body)
	sig, err := rsa.SignPKCS1v15(nil, k.Private, crypto.SHA256, sum[:])
	if err != nil {
		return nil, err
	}
	return gzipTar([]tarFile{{".SIGN.RSA256." + k.Name, sig}}, false)
}
