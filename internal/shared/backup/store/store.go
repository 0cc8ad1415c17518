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
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

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
	// ErrAddress is returned for an address of no store.
	ErrAddress = errors.New("invalid address of a store")
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
	Node string    `json:"node"` // as Name has it
	Made time.Time `json:"made"` // as Name has it
}

// Store keeps backups. Only names that NameOf makes are seen.
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
	if err := CheckAddress(l.Address); err != nil {
		return nil, err
	}
	if !strings.Contains(l.Address, "://") {
		return openDir(l.Address)
	}
	u, err := url.Parse(l.Address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAddress, err)
	}
	if u.Scheme == "sftp" {
		return openSFTP(ctx, u, l)
	}
	return openS3(u, l)
}

// CheckAddress reports why an address is not that of a store. The error is
// ErrAddress.
func CheckAddress(address string) error {
	const forms = "want a directory such as /mnt/nas, sftp://USER@HOST/DIRECTORY or s3://BUCKET/PREFIX"
	refused := func(why string) error {
		return hint.With(fmt.Errorf("%w: %s", ErrAddress, why), forms)
	}
	if !strings.Contains(address, "://") {
		if !filepath.IsAbs(address) || strings.ContainsAny(address, "\x00\n") {
			return refused(fmt.Sprintf("%q is neither an absolute path nor a URL", address))
		}
		return nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return refused("it cannot be read as a URL") // the error would show a password
	}
	if _, has := u.User.Password(); has || u.RawQuery != "" || u.Fragment != "" {
		return refused("it has a password, a query or a fragment, and takes none")
	}
	switch {
	case u.Scheme == "sftp" && u.User.Username() != "" && u.Hostname() != "" && len(u.Path) > 1:
	case u.Scheme == "s3" && bucketForm.MatchString(u.Host) && u.User == nil && !strings.Contains(u.Path, "//"):
	default:
		return refused(fmt.Sprintf("%q", address))
	}
	return nil
}

// bucketForm is that of buckets
// (https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html).
var bucketForm = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

const (
	stamp      = "20060102T150405Z"
	extension  = ".backup"
	unfinished = ".part"
)

var nameForm = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]{0,127})-([0-9]{8}T[0-9]{6}Z)\.backup$`)

// NameOf returns the name of a backup in a store: that of the node, and when it was
// made, to the second.
func NameOf(node string, made time.Time) string {
	return node + "-" + made.UTC().Format(stamp) + extension
}

// ParseName returns what NameOf was given.
func ParseName(name string) (node string, made time.Time, ok bool) {
	m := nameForm.FindStringSubmatch(name)
	if m == nil {
		return "", time.Time{}, false
	}
	made, err := time.Parse(stamp, m[2])
	return m[1], made, err == nil
}

// partOf returns whose unfinished upload a file is.
func partOf(name string) (node string, ok bool) {
	whole, is := strings.CutSuffix(strings.TrimPrefix(name, "."), unfinished)
	node, _, ok = ParseName(whole)
	return node, is && ok
}

// object returns a backup by its name; ok is false for names of others.
func object(name string, size int64) (o Object, ok bool) {
	node, made, ok := ParseName(name)
	return Object{Name: name, Size: size, Node: node, Made: made}, ok
}

// checkName refuses names that NameOf does not make: they could lead elsewhere.
func checkName(name string) error {
	if _, _, ok := ParseName(name); !ok {
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
