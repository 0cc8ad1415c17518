package node

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
)

// Identity is what makes a node itself to others. All of it comes from the
// node's name and its seed, so that a node that was flashed anew, or has no
// card at all, is the one it was. The desk derives the same, to say what to
// put into known_hosts and into a NAS.
type Identity struct {
	Hostname  string
	MachineID string // 32 hexadecimal digits
	HostKey   ed25519.PrivateKey
	IQN       string
	// NodePassword is what k3s proves with that this node is the one that
	// joined: 16 bytes as hexadecimal digits (docs/platform.md 7.4).
	NodePassword string
}

// iqnPrefix is where the IQNs of nodes begin: the project's own domain, since
// a month it has had it (RFC 7143 4.2.7.4).
const iqnPrefix = "iqn.2026-11.io.github.pikelet-os:"

// NewIdentity derives an identity from a name and a seed, 64 hexadecimal
// digits.
func NewIdentity(hostname, seed string) (Identity, error) {
	secret, err := hex.DecodeString(seed)
	if err != nil || len(secret) != 32 {
		return Identity{}, fmt.Errorf("deriving the identity of %s: its seed is no 64 hexadecimal digits", hostname)
	}
	derive := func(what string, n int) []byte {
		b, e := hkdf.Key(sha256.New, secret, nil, "pikelet node identity, version 1: "+what, n)
		if e != nil {
			err = e
		}
		return b
	}
	id := Identity{
		Hostname:     hostname,
		MachineID:    hex.EncodeToString(derive("machine-id", 16)),
		HostKey:      ed25519.NewKeyFromSeed(derive("ssh host key", ed25519.SeedSize)),
		IQN:          iqnPrefix + hostname + "-" + hex.EncodeToString(derive("iqn", 4)),
		NodePassword: hex.EncodeToString(derive("k3s node password", 16)),
	}
	return id, err
}

// WithBoard returns the identity of a board that took the node over from another:
// what it proves to the cluster with comes from the board's own seed, 64 hexadecimal
// digits. The rest stays. "" is the first board.
func (id Identity) WithBoard(seed string) (Identity, error) {
	if seed == "" {
		return id, nil
	}
	board, err := NewIdentity(id.Hostname, seed)
	if err != nil {
		return id, fmt.Errorf("of its board: %w", err)
	}
	id.NodePassword = board.NodePassword
	return id, nil
}

// keyKind is what SSH calls a host key of ours.
const keyKind = "ssh-ed25519"

func (id Identity) public() []byte { return id.HostKey.Public().(ed25519.PublicKey) }

// publicBlob is the public key as SSH writes it (RFC 8709 4).
func (id Identity) publicBlob() []byte {
	return join(sshString([]byte(keyKind)), sshString(id.public()))
}

// PublicKey returns the host's public key, as in known_hosts.
func (id Identity) PublicKey() string {
	return keyKind + " " + base64.StdEncoding.EncodeToString(id.publicBlob())
}

// Fingerprint returns what ssh shows of the host's key.
func (id Identity) Fingerprint() string {
	sum := sha256.Sum256(id.publicBlob())
	return "SHA256:" + strings.TrimRight(base64.StdEncoding.EncodeToString(sum[:]), "=")
}

// DropbearKey returns the host key in dropbear's own format: the kind, then
// private and public half in one string.
func (id Identity) DropbearKey() []byte {
	return join(sshString([]byte(keyKind)), sshString(id.HostKey)) // Go keeps both halves in this order too
}

// OpenSSHKey returns the host key as OpenSSH keeps it, unencrypted
// (PROTOCOL.key in OpenSSH's sources).
func (id Identity) OpenSSHKey() []byte {
	check := id.public()[:4] // two equal numbers, random elsewhere, by which a decryption is known to have worked
	private := join(check, check, sshString([]byte(keyKind)), sshString(id.public()), sshString(id.HostKey), sshString([]byte(id.Hostname)))
	for i := byte(1); len(private)%8 != 0; i++ {
		private = append(private, i)
	}
	none := sshString([]byte("none"))
	b := join([]byte("openssh-key-v1\x00"), none, none, sshString(nil), []byte{0, 0, 0, 1}, sshString(id.publicBlob()), sshString(private))
	return pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: b})
}

// sshString is a string as SSH writes it: length, then bytes.
func sshString(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// DefaultName names a node after its image and the last eight digits of its
// serial, which tell boards apart (docs/platform.md 4).
func DefaultName(stream, serial string) string {
	if len(serial) > 8 {
		serial = serial[len(serial)-8:]
	}
	if serial == "" {
		return stream
	}
	return stream + "-" + strings.ToLower(serial)
}

// VolumeLabel is how the filesystem of a node's volume says whose it is. ext4
// has room for 16 bytes; of longer names it holds the beginning and a hash.
func VolumeLabel(hostname string) string {
	if len(hostname) <= 16 {
		return hostname
	}
	sum := sha256.Sum256([]byte(hostname))
	return hostname[:9] + "~" + hex.EncodeToString(sum[:3])
}
