package cli

import (
	"bytes"
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

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pikelet-os/pikelet/internal/host/cosign"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// passwordVariable is the environment variable that cosign reads the password of
// a key from, and that its users' scripts set.
const passwordVariable = "COSIGN_PASSWORD"

func newKeygen(a *app) *cobra.Command {
	name := "cosign"
	c := &cobra.Command{
		Use:   "keygen",
		Short: "Create a key pair that signs images",
		Long: `Create a key pair that signs images: NAME.key, encrypted with a password, and
NAME.pub for keys: in image specs. The files have cosign's format: cosign sign and
cosign verify accept them, and pikelet accepts those of cosign generate-key-pair.

The password is read from the terminal, or from COSIGN_PASSWORD.`,
		Example: "  pikelet keygen -o release",
		GroupID: groupShip,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			word, err := a.newPassword()
			if err != nil {
				return err
			}
			private, public, err := cosign.Generate(word)
			if err != nil {
				return err
			}
			if err := cosign.Write(name, private, public); err != nil {
				return err
			}
			a.result(map[string]string{"private": name + ".key", "public": name + ".pub"},
				name+".key\n"+name+".pub\nKeep the first one secret; put the second one into keys: of your image spec.")
			return nil
		},
	}
	c.Flags().StringVarP(&name, "output", "o", name, "`NAME` of the files, without .key and .pub")
	return c
}

// newPassword asks for a new password, twice.
func (a *app) newPassword() ([]byte, error) {
	if word, ok := os.LookupEnv(passwordVariable); ok {
		return []byte(word), nil
	}
	one, err := a.ask("Password for the new key: ")
	if err != nil {
		return nil, err
	}
	two, err := a.ask("Repeat the password: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(one, two) {
		return nil, errors.New("creating the key: the two passwords differ")
	}
	return one, nil
}

// password asks for the password of an existing key.
func (a *app) password() ([]byte, error) {
	if word, ok := os.LookupEnv(passwordVariable); ok {
		return []byte(word), nil
	}
	return a.ask("Password for the key: ")
}

// ask reads a password from the terminal.
func (a *app) ask(prompt string) ([]byte, error) {
	if !isTerminal(a.in) {
		return nil, hint.With(errors.New("reading the password: standard input is not a terminal"), "put the password into "+passwordVariable)
	}
	fmt.Fprint(a.err, prompt)
	word, err := term.ReadPassword(int(a.in.(*os.File).Fd()))
	fmt.Fprintln(a.err)
	return word, err
}

// readKey reads a private key, asking for its password if it is encrypted.
func (a *app) readKey(name string) (*ecdsa.PrivateKey, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading the signing key: %w", err)
	}
	k, err := cosign.ParsePrivateKey(b, a.password)
	if err != nil {
		return nil, fmt.Errorf("reading the signing key %s: %w", name, err)
	}
	return k, nil
}

// developmentKey returns the file of the user's development key.
func developmentKey() (string, error) {
	dir, err := userDir(os.UserConfigDir, "name a key with --sign-key FILE")
	return filepath.Join(dir, "development.key"), err
}

// signingKey reads a private key, or the user's development key.
func signingKey(name string, a *app) (*ecdsa.PrivateKey, error) {
	if name == "" {
		var err error
		if name, err = developmentKey(); err != nil {
			return nil, err
		}
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			if err := makeKey(name); err != nil {
				return nil, err
			}
			a.log.Info("created a development key", "file", name)
		}
		a.log.Info("signing with your development key", "hint", "use --sign-key for images that others rely on")
	}
	return a.readKey(name)
}

func makeKey(name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// trustedKeys returns the public keys that the user trusts by default: those in
// the directory keys of pikelet's configuration, and that of the development
// key. It also returns that directory.
func trustedKeys() ([]*ecdsa.PublicKey, string, error) {
	dir, err := userDir(os.UserConfigDir, "name a key with --key FILE")
	if err != nil {
		return nil, "", err
	}
	trusted := filepath.Join(dir, "keys")
	files, err := filepath.Glob(filepath.Join(trusted, "*.pub"))
	if err != nil {
		return nil, "", err
	}
	keys, err := cosign.ReadPublicKeys(files)
	if err != nil {
		return nil, "", err
	}
	if name, err := developmentKey(); err == nil {
		if b, err := os.ReadFile(name); err == nil {
			k, err := cosign.ParsePrivateKey(b, func() ([]byte, error) { return nil, errors.New("the key is encrypted") })
			if err != nil {
				return nil, "", fmt.Errorf("reading the development key %s: %w", name, err)
			}
			keys = append(keys, &k.PublicKey)
		}
	}
	return keys, trusted, nil
}

// developmentSigner returns the development key; nil where it does not exist or
// cannot be read.
func (a *app) developmentSigner() *ecdsa.PrivateKey {
	name, err := developmentKey()
	if err != nil {
		return nil
	}
	if _, err := os.Stat(name); err != nil {
		return nil
	}
	key, err := a.readKey(name)
	if err != nil {
		return nil
	}
	return key
}
