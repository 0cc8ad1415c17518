// Package store keeps backups in a directory, on a server of SFTP, or in a bucket of
// S3. What it keeps is encrypted already (package backup): a store learns sizes,
// names and times. A backup has its name in a store once it is whole.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/backup/address"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Errors of stores, besides those of the network.
var (
	// ErrNotFound is returned for a backup, bucket or directory that is not there.
	ErrNotFound = errors.New("not found")
	// ErrDenied is returned where the store does not take the credentials, or they do
	// not allow what is asked for.
	ErrDenied = errors.New("the store refuses these credentials")
	// ErrClock is returned where the clocks of store and client are too far apart.
	ErrClock = errors.New("the store's clock is another one")
	// ErrFull is returned where the store has no room left.
	ErrFull = errors.New("the store is full")
	// ErrLock is returned where the store cannot lock what it keeps.
	ErrLock = errors.New("the store locks nothing")
	// ErrHostKey is returned for a server of SFTP that is another one.
	ErrHostKey = errors.New("the server's host key is not the one that was given")
	// ErrDiffers is returned where a store gives back other bytes than it was given.
	ErrDiffers = errors.New("the store gives back something else")
)

// Location says where backups are kept, and what opens the door there.
type Location struct {
	// Address is a directory, sftp://USER@HOST[:PORT]/DIRECTORY or
	// s3://BUCKET[/PREFIX]. Below sftp://USER@HOST/~/ is the user's own directory.
	Address  string
	Endpoint string // of S3, such as https://nas.lan:9000; "" is Amazon's
	Region   string // of S3; "" is us-east-1, which servers that have none take
	CA       []byte // certificates in PEM, trusted instead of the system's; nil for these

	AccessKey, SecretKey string // of S3
	SessionToken         string // of S3, where the keys are temporary
	SSHKey               []byte // of SFTP: a private key as OpenSSH writes it
	HostKey              string // of SFTP: public keys of the server, one a line
}

// Upload is a backup that is to be kept.
type Upload struct {
	Name string
	From io.ReaderAt // all of it
	Size int64       // bytes
	// Until is until when no one can delete it; zero for no lock.
	Until time.Time
	// Progress is how far an earlier upload of the same bytes came; Save, where it is
	// not nil, is given each new one.
	Progress Progress
	Save     func(Progress) error
}

// Progress is how far an upload came. Its zero value is the beginning.
type Progress struct {
	ID    string `json:"id,omitempty"`    // that the store gave the upload
	Parts []Part `json:"parts,omitempty"` // that it has
}

// Part is a part of an upload that the store has.
type Part struct {
	Number int    `json:"number"` // from 1 on
	ETag   string `json:"etag"`
}

// Object is a backup in a store.
type Object struct {
	Name string    `json:"name"`
	Size int64     `json:"size"` // bytes
	Node string    `json:"node"` // as its name has it
	Made time.Time `json:"made"` // as its name has it
}

// Store keeps backups. Only names that address.NameOf makes are seen.
type Store interface {
	// Put keeps a backup. It has its name there when Put returns nil, and not before.
	Put(ctx context.Context, u Upload) error
	// Open reads a backup from an offset in bytes on.
	Open(ctx context.Context, name string, offset int64) (io.ReadCloser, error)
	// Stat returns what is known of a backup; the error is ErrNotFound for none.
	Stat(ctx context.Context, name string) (Object, error)
	// List returns all backups, the oldest first.
	List(ctx context.Context) ([]Object, error)
	// Delete deletes a backup.
	Delete(ctx context.Context, name string) error
	// Tidy deletes what uploads of a node left that were given up.
	Tidy(ctx context.Context, node string) error
	io.Closer
}

// Open opens a store. It may ask the store for nothing yet.
func Open(ctx context.Context, l Location) (Store, error) {
	kind, err := address.Check(l.Address)
	if err != nil {
		return nil, err
	}
	if kind == address.Directory {
		return openDir(l.Address)
	}
	u, err := url.Parse(l.Address)
	if err != nil {
		return nil, address.ErrAddress // which is not shown: Check took it
	}
	if kind == address.SFTP {
		return openSFTP(ctx, u, l)
	}
	return openS3(u, l)
}

const unfinished = ".part" // ends the name of what is not whole

// partOf returns whose unfinished upload a file is.
func partOf(name string) (node string, ok bool) {
	whole, is := strings.CutSuffix(strings.TrimPrefix(name, "."), unfinished)
	node, _, ok = address.ParseName(whole)
	return node, is && ok
}

// object returns a backup by its name; ok is false for names of others.
func object(name string, size int64) (o Object, ok bool) {
	node, made, ok := address.ParseName(name)
	return Object{Name: name, Size: size, Node: node, Made: made}, ok
}

// checkName refuses names that address.NameOf does not make: they could lead elsewhere.
func checkName(name string) error {
	if _, _, ok := address.ParseName(name); !ok {
		return hint.With(fmt.Errorf("%q is not the name of a backup", name), "want NODE-TIME.backup, as pikelet backups lists them")
	}
	return nil
}

func sorted(list []Object) []Object {
	slices.SortFunc(list, func(a, b Object) int {
		if c := a.Made.Compare(b.Made); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list
}
