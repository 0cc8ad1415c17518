// Package provision prepares nodes before they start: it decrypts the secrets of
// an inventory, derives the config of each node, and writes it to cards.
package provision

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// maxInventory limits the size of an inventory in bytes: hundreds of nodes with
// files.
const maxInventory = 16 << 20

// Load reads a node config or an inventory.
func Load(file string) (*nodeconfig.Document, error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("reading the node config: %w", err)
	}
	if st.Size() > maxInventory {
		return nil, fmt.Errorf("reading the node config: %s is too large for an inventory: got %d bytes, want at most %d",
			file, st.Size(), maxInventory)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the node config: %w", err)
	}
	return nodeconfig.Load(file, b, boards.Names(), false)
}

// Keys decrypt secrets: the identities of age, as age-keygen makes them.
type Keys struct {
	File       string // the file they were read from
	identities []age.Identity
}

// LoadKeys reads the identities in a file. A file that does not exist holds none,
// which is an error only when a secret is decrypted.
func LoadKeys(file string) (*Keys, error) {
	k := &Keys{File: file}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if k.identities, err = age.ParseIdentities(f); err != nil {
		return nil, fmt.Errorf("reading the age keys in %s: %w", file, err)
	}
	return k, nil
}

// Identities returns the identities.
func (k *Keys) Identities() []age.Identity { return k.identities }

// Recipients returns the public keys of the identities, as Encrypt takes them. Those
// of SSH keys and plugins are not known.
func (k *Keys) Recipients() (list []string) {
	for _, i := range k.identities {
		switch i := i.(type) {
		case *age.X25519Identity:
			list = append(list, i.Recipient().String())
		case *age.HybridIdentity:
			list = append(list, i.Recipient().String())
		}
	}
	return list
}

// Decrypt decrypts a secret: the prefix age: and an age file, in base64 or in
// age's own armor.
func (k *Keys) Decrypt(secret string) (string, error) {
	text, _ := nodeconfig.Ciphertext(secret)
	text = strings.TrimSpace(text)
	if len(k.identities) == 0 {
		err := fmt.Errorf("decrypting the secret: no age keys in %s", k.File)
		return "", hint.With(err, "name the file with your age keys")
	}
	var r io.Reader
	if strings.HasPrefix(text, armor.Header) {
		r = armor.NewReader(strings.NewReader(text))
	} else {
		b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
		if err != nil {
			return "", errors.New("decrypting the secret: want base64 or age's armor after age:")
		}
		r = bytes.NewReader(b)
	}
	d, err := age.Decrypt(r, k.identities...)
	if err != nil {
		return "", fmt.Errorf("decrypting the secret with the keys in %s: %w", k.File, err)
	}
	b, err := io.ReadAll(io.LimitReader(d, nodeconfig.MaxSize+1))
	if err != nil {
		return "", err
	}
	return string(b), nil
}

// Encrypt encrypts a secret for recipients, as age1... or lines of SSH keys
// that age knows.
func Encrypt(secret string, recipients []string) (string, error) {
	list, err := age.ParseRecipients(strings.NewReader(strings.Join(recipients, "\n")))
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	w, err := age.Encrypt(&b, list...)
	if err != nil {
		return "", err
	}
	if _, err := io.WriteString(w, secret); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	return nodeconfig.Encrypted(base64.StdEncoding.EncodeToString(b.Bytes())), nil
}

// Config returns the config of one machine, with its secrets decrypted and its
// seed derived from the cluster's secret. A node without a hostname derives its
// name from stream, that of the image.
func Config(d *nodeconfig.Document, m nodeconfig.Machine, stream string, k *Keys) (*nodeconfig.Config, error) {
	name := ""
	if stream != "" && m.Serial != "" {
		name = node.DefaultName(stream, m.Serial)
	}
	return d.For(m, name, k.Decrypt)
}

// Identity returns the identity that the node of a config will have; false where
// the node generates it itself, because the config lacks a name or a seed.
func Identity(c *nodeconfig.Config, name string) (node.Identity, bool, error) {
	if c.Hostname != "" {
		name = c.Hostname
	}
	if c.Seed == "" || name == "" {
		return node.Identity{}, false, nil
	}
	id, err := node.NewIdentity(name, c.Seed)
	return id, true, err
}

// NodeFile encodes a config for the control partition of a card.
func NodeFile(c *nodeconfig.Config) ([]byte, error) {
	text, err := c.Encode()
	if err != nil {
		return nil, err
	}
	if len(text) > slots.NodeSize {
		return nil, fmt.Errorf("the node config is too large: got %d bytes, want at most %d", len(text), slots.NodeSize)
	}
	return text, nil
}

// Write writes the config of a node to a card or a disk image, in place over the
// file that is preallocated for it.
func Write(card string, c *nodeconfig.Config) error {
	text, err := NodeFile(c)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(card, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	table, err := disk.ReadTable(f)
	if err != nil {
		return fmt.Errorf("%s is not a Pikelet card: %w", card, err)
	}
	at, size, err := slots.ControlFile(f, table, slots.NodeFile)
	if err != nil {
		return fmt.Errorf("%s is not a Pikelet card: first partition: %w", card, err)
	}
	if int64(len(text)) > size {
		return fmt.Errorf("the node config is too large for %s: got %d bytes, want at most %d", card, len(text), size)
	}
	if _, err := f.WriteAt(append(text, bytes.Repeat([]byte{'\n'}, int(size)-len(text))...), at); err != nil {
		return err
	}
	return f.Sync()
}

// Redacted returns a copy of a config to show to people: secrets are replaced
// by their length.
func Redacted(c *nodeconfig.Config) (*nodeconfig.Config, error) {
	return c.Redacted(func(secret string) string { return fmt.Sprintf("(secret, %d characters)", len(secret)) })
}
