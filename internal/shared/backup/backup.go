// Package backup is the form of a backup of a k3s server: one file that holds what
// makes a cluster this cluster. It is a tar of backup.json, the files, and
// sums.json; compressed with zstd, and encrypted with age
// (https://age-encryption.org/v1) to people's keys. A node that makes backups
// cannot read them.
package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// Info says what a backup is of.
type Info struct {
	Format    int       `json:"format"`    // 1
	Node      string    `json:"node"`      // the server's name
	Cluster   string    `json:"cluster"`   // ClusterOf its server CA
	Made      time.Time `json:"made"`      // when the datastore was copied
	K3s       string    `json:"k3s"`       // version
	Release   string    `json:"release"`   // of the image
	Datastore Datastore `json:"datastore"` // kind
	// Adopted says that the server was none of Pikelet's: the backup has no seed of
	// its node, and k3s knows its name by a password that is not in it.
	Adopted bool `json:"adopted,omitempty"`
	// Answers are the addresses at which agents reach the server, as HOST:PORT,
	// separated by blanks.
	Answers string `json:"answers,omitempty"`
	// Move is the id of the move that this backup is the last one for: the server is
	// fenced, and nothing was written to it since. "" for any other backup.
	Move string `json:"move,omitempty"`
	To   string `json:"to,omitempty"` // the name that the server moves to
}

// Datastore is a kind of datastore.
type Datastore string

// SQLite is a datastore of one server: a copy of db/state.db.
const SQLite Datastore = "sqlite"

// The places in a backup. Everything below Server lies below k3s' server directory
// on a node.
const (
	infoName = "backup.json"
	sumsName = "sums.json"
	Server   = "server/"
	StateDB  = Server + "db/state.db"
	Seed     = "node/seed" // of the server's identity, its password with k3s among it
)

// What a backup may hold. A server of a cluster of a hundred nodes has some 120
// files beside its datastore, and a datastore of less than a gigabyte.
const (
	MaxFiles = 10_000
	MaxFile  = 16 << 30 // bytes, of the datastore
	maxSmall = 4 << 20  // bytes, of every other file
	maxInfo  = 64 << 10 // bytes, of backup.json
	window   = 4 << 20  // bytes, of zstd: what a reader keeps in memory
)

// Errors of reading a backup.
var (
	// ErrDamaged is returned for a backup that is cut off, changed, or no backup.
	ErrDamaged = errors.New("the backup is damaged")
	// ErrKey is returned where none of the keys opens the backup.
	ErrKey = errors.New("the backup is encrypted to other keys")
)

// sum is the size and digest of a file.
type sum struct {
	Size   int64  `json:"size"` // bytes
	Digest string `json:"digest"`
}

// ClusterOf is node.ClusterOf.
func ClusterOf(certificate []byte) (string, error) { return node.ClusterOf(certificate) }

func (i Info) check() error {
	switch {
	case i.Format != 1:
		return fmt.Errorf("%w: its format is %d, want 1", ErrDamaged, i.Format)
	case i.Datastore != SQLite:
		return fmt.Errorf("%w: its datastore is %q, want %q", ErrDamaged, i.Datastore, SQLite)
	case !strings.HasPrefix(i.Cluster, "sha256:") || i.Node == "":
		return fmt.Errorf("%w: %s names no cluster or no node", ErrDamaged, infoName)
	}
	return nil
}

// allowed reports whether a file of some name may be in a backup, and how large it
// may be, in bytes.
func allowed(name string) (limit int64, ok bool) {
	switch name {
	case StateDB:
		return MaxFile, true
	case Seed:
		return maxSmall, true
	}
	rest, in := strings.CutPrefix(name, Server)
	plain := in && rest != "" && path.Clean(name) == name && !strings.ContainsAny(name, "\\\x00\n")
	return maxSmall, plain && !strings.HasPrefix(rest, "db/") && !strings.HasPrefix(rest, "../")
}

// encoders returns writers that compress and encrypt what goes to w. Both must be
// closed, the first one first.
func encoders(w io.Writer, recipients []age.Recipient) (z *zstd.Encoder, sealed io.WriteCloser, err error) {
	if len(recipients) == 0 {
		return nil, nil, errors.New("writing a backup: no key to encrypt it to")
	}
	if sealed, err = age.Encrypt(w, recipients...); err != nil {
		return nil, nil, fmt.Errorf("encrypting the backup: %w", err)
	}
	z, err = zstd.NewWriter(sealed, zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	return z, sealed, err
}

// Decrypt returns a reader of a backup as Extract takes it. The errors are ErrKey
// and ErrDamaged, the latter also of later reads.
func Decrypt(r io.Reader, identities ...age.Identity) (io.Reader, error) {
	if len(identities) == 0 {
		return nil, ErrKey
	}
	plain, err := age.Decrypt(r, identities...)
	if err != nil {
		if errors.As(err, new(*age.NoIdentityMatchError)) {
			return nil, ErrKey
		}
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return damaged{plain}, nil
}

// damaged marks the errors of a reader.
type damaged struct{ io.Reader }

// Read implements io.Reader.
func (d damaged) Read(b []byte) (int, error) {
	n, err := d.Reader.Read(b)
	if err != nil && err != io.EOF && !errors.Is(err, ErrDamaged) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return n, err
}

func decodeInfo(text []byte) (Info, error) {
	var i Info
	if err := json.Unmarshal(text, &i); err != nil {
		return i, fmt.Errorf("%w: %s: %w", ErrDamaged, infoName, err)
	}
	return i, i.check()
}
