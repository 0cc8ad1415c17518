// Package cosign reads and writes key files as cosign keeps them, on the desk:
// a private key encrypted by a password, and the public key that goes into
// image specs.
package cosign

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// Types of PEM blocks with an encrypted key: what cosign writes, and what it
// wrote before version 2 (docs/platform.md 10.3).
const (
	pemEncrypted = "ENCRYPTED SIGSTORE PRIVATE KEY"
	pemOlder     = "ENCRYPTED COSIGN PRIVATE KEY"
)

// ErrPassword is returned for a private key that the password does not decrypt.
var ErrPassword = errors.New("incorrect password")

// Generate makes a key and returns its two files: the private one encrypted,
// as cosign does with an empty password too, and the public one.
func Generate(password []byte) (private, public []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	box, err := encrypted.Encrypt(der, password)
	if err != nil {
		return nil, nil, fmt.Errorf("encrypting the key: %w", err)
	}
	public, err = image.EncodePublicKey(&key.PublicKey)
	return pem.EncodeToMemory(&pem.Block{Type: pemEncrypted, Bytes: box}), public, err
}

// ParsePrivateKey reads a private key: cosign's, for which password is asked,
// or one that is not encrypted, as openssl writes it. It returns ErrPassword for
// a password that does not decrypt the key.
func ParsePrivateKey(b []byte, password func() ([]byte, error)) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("no PEM block found")
	}
	var key any
	var err error
	switch block.Type {
	case pemEncrypted, pemOlder:
		plain, err := password()
		if err != nil {
			return nil, err
		}
		der, err := encrypted.Decrypt(block.Bytes, plain)
		if err != nil {
			return nil, ErrPassword
		}
		key, err = x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			return nil, err
		}
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "PUBLIC KEY":
		err = hint.With(errors.New("got a public key, want a private key"), "sign with the other file of the pair")
	default:
		err = fmt.Errorf("unsupported PEM block %q: want PRIVATE KEY, EC PRIVATE KEY or %s", block.Type, pemEncrypted)
	}
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("unsupported key type: want ECDSA on P-256")
	}
	return ec, nil
}

// Write writes the two files of a key, NAME.key and NAME.pub. It returns
// fs.ErrExist where one of them exists.
func Write(name string, private, public []byte) error {
	for _, f := range []string{name + ".key", name + ".pub"} {
		if _, err := os.Lstat(f); err == nil {
			return hint.With(fmt.Errorf("writing the key: %s: %w", f, fs.ErrExist), "name another file: an overwritten key cannot be recovered")
		}
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	if err := create(name+".key", private, 0o600); err != nil {
		return err
	}
	return create(name+".pub", public, 0o644)
}

func create(name string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Close()
}

// ReadPublicKeys reads public keys from files.
func ReadPublicKeys(files []string) ([]*ecdsa.PublicKey, error) {
	var list []*ecdsa.PublicKey
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading a public key: %w", err)
		}
		k, err := image.ParsePublicKey(b)
		if err != nil {
			return nil, fmt.Errorf("reading the public key %s: %w", name, err)
		}
		list = append(list, k)
	}
	return list, nil
}
