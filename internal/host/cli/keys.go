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
)

// passwordVariable is where cosign looks for the password of a key, and so do
// its users' scripts.
const passwordVariable = "COSIGN_PASSWORD"

func newKeygen(say *teller) *cobra.Command {
	name := "cosign"
	c := &cobra.Command{
		Use:   "keygen",
		Short: "Make a key that signs images",
		Long: `Make a key that signs images: NAME.key, encrypted with a password, and NAME.pub
for keys: in image specs. They are files of cosign's: cosign sign and cosign
verify take them, and pikelet takes what cosign generate-key-pair makes.

The password is asked for, or taken from COSIGN_PASSWORD.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			word, err := newPassword()
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
			say.result(map[string]string{"private": name + ".key", "public": name + ".pub"},
				name+".key\n"+name+".pub\nKeep the first one to yourself; put the second one into keys: of your image spec.")
			return nil
		},
	}
	c.Flags().StringVarP(&name, "output", "o", name, "the files' name, without .key and .pub")
	return c
}

// newPassword asks for a password twice.
func newPassword() ([]byte, error) {
	if word, ok := os.LookupEnv(passwordVariable); ok {
		return []byte(word), nil
	}
	one, err := ask("Password for the new key: ")
	if err != nil {
		return nil, err
	}
	two, err := ask("The same again: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(one, two) {
		return nil, errors.New("the two passwords differ; nothing was made")
	}
	return one, nil
}

// password asks for the password of a key that is there.
func password() ([]byte, error) {
	if word, ok := os.LookupEnv(passwordVariable); ok {
		return []byte(word), nil
	}
	return ask("Password for the key: ")
}

func ask(prompt string) ([]byte, error) {
	in := int(os.Stdin.Fd())
	if !term.IsTerminal(in) {
		return nil, fmt.Errorf("there is no terminal to ask for the password on; put it into %s", passwordVariable)
	}
	fmt.Fprint(os.Stderr, prompt)
	word, err := term.ReadPassword(in)
	fmt.Fprintln(os.Stderr)
	return word, err
}

// readKey reads a private key that signs.
func readKey(name string) (*ecdsa.PrivateKey, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading the signing key: %w", err)
	}
	k, err := cosign.ParsePrivateKey(b, password)
	if err != nil {
		return nil, fmt.Errorf("reading the signing key %s: %w", name, err)
	}
	return k, nil
}

// developmentKey returns the file of the user's development key.
func developmentKey() (string, error) {
	dir, err := userFolder(os.UserConfigDir, "say --key FILE")
	return filepath.Join(dir, "development.key"), err
}

// signingKey reads a private key, or the user's development key.
func signingKey(name string, say *teller) (*ecdsa.PrivateKey, error) {
	if name == "" {
		var err error
		if name, err = developmentKey(); err != nil {
			return nil, err
		}
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			if err := makeKey(name); err != nil {
				return nil, err
			}
			say.line("made a development key: " + name)
		}
		say.line("signing with your development key; use --key for images others rely on")
	}
	return readKey(name)
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

// trustedKeys returns the public keys the user trusts without being asked:
// those in the folder keys of pikelet's configuration, and the development
// key's own.
func trustedKeys() ([]*ecdsa.PublicKey, string, error) {
	dir, err := userFolder(os.UserConfigDir, "say --key FILE")
	if err != nil {
		return nil, "", err
	}
	folder := filepath.Join(dir, "keys")
	files, err := filepath.Glob(filepath.Join(folder, "*.pub"))
	if err != nil {
		return nil, "", err
	}
	keys, err := cosign.ReadPublicKeys(files)
	if err != nil {
		return nil, "", err
	}
	if name, err := developmentKey(); err == nil {
		if b, err := os.ReadFile(name); err == nil {
			k, err := cosign.ParsePrivateKey(b, func() ([]byte, error) { return nil, errors.New("it is encrypted") })
			if err != nil {
				return nil, "", fmt.Errorf("reading the development key %s: %w", name, err)
			}
			keys = append(keys, &k.PublicKey)
		}
	}
	return keys, folder, nil
}
