// Package address says what an address of a store of backups is, and what the name of
// a backup there is. It is small, so that what only checks a config needs no clients
// of stores.
package address

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// ErrAddress is returned for an address of no store.
var ErrAddress = errors.New("invalid address of a store")

// bucketForm is that of buckets
// (https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html).
var bucketForm = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// Kind is a kind of store.
type Kind string

// The kinds of stores.
const (
	Directory Kind = "directory" // an absolute path
	SFTP      Kind = "sftp"      // sftp://USER@HOST[:PORT]/DIRECTORY
	S3        Kind = "s3"        // s3://BUCKET[/PREFIX]
)

// Check returns of which kind the store at an address is. The error is ErrAddress. It
// shows no password.
func Check(address string) (Kind, error) {
	refused := func(why string) (Kind, error) {
		return "", hint.With(fmt.Errorf("%w: %s", ErrAddress, why),
			"want a directory such as /mnt/nas, sftp://USER@HOST/DIRECTORY or s3://BUCKET/PREFIX")
	}
	if !strings.Contains(address, "://") {
		if !filepath.IsAbs(address) && !path.IsAbs(address) || strings.ContainsAny(address, "\x00\n") {
			return refused(fmt.Sprintf("%q is neither an absolute path nor a URL", address))
		}
		return Directory, nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return refused("it cannot be read as a URL")
	}
	if _, has := u.User.Password(); has || u.RawQuery != "" || u.Fragment != "" {
		return refused("it has a password, a query or a fragment, and takes none")
	}
	switch {
	case u.Scheme == "sftp" && u.User.Username() != "" && u.Hostname() != "" && len(u.Path) > 1:
		return SFTP, nil
	case u.Scheme == "s3" && bucketForm.MatchString(u.Host) && u.User == nil && !strings.Contains(u.Path, "//"):
		return S3, nil
	}
	return refused(fmt.Sprintf("%q", address))
}

const stamp = "20060102T150405Z"

var nameForm = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]{0,127})-([0-9]{8}T[0-9]{6}Z)\.backup$`)

// NameOf returns the name of a backup in a store: that of the node, and when it was
// made, to the second.
func NameOf(node string, made time.Time) string {
	return node + "-" + made.UTC().Format(stamp) + ".backup"
}

// ParseName returns what NameOf was given; ok is false for names of others.
func ParseName(name string) (node string, made time.Time, ok bool) {
	m := nameForm.FindStringSubmatch(name)
	if m == nil {
		return "", time.Time{}, false
	}
	made, err := time.Parse(stamp, m[2])
	return m[1], made, err == nil
}
