// Package registry reads and writes the places where images live: repositories of
// registries, OCI layouts in directories, and archives of these. It finds the image that a
// reference names, checks its chain before anything else is read of it,
// checks every file's bytes as they are read, and copies images from place to
// place with their signatures and what refers to them.
//
// Desk and nodes use it alike. It is on go-containerregistry, but for reading:
// that has no Range, which an interrupted download needs to go on, and bounds
// a manifest at 100 MiB.
package registry

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// Place is where manifests and blobs are. What it returns is not checked,
// unless it says so.
type Place interface {
	// String is the name of the place in errors and logs.
	String() string
	// Manifest returns what a tag or a digest names, at most image.MaxOCI
	// bytes; fs.ErrNotExist where there is nothing. "" is the one image of a
	// place that holds only one.
	Manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error)
	// Remote reports whether the place is reached over a network.
	Remote() bool
	// Backoff is the time before the first retry of a download that broke off; 0
	// where a retry is pointless.
	Backoff() time.Duration
	// Reference is the name of what has a digest here, in errors.
	Reference(digest string) string
	// Blob opens a blob of size bytes from an offset on.
	Blob(ctx context.Context, digest string, size, from int64) (io.ReadCloser, error)
	// Part opens n bytes of a blob from byte at on. A registry that does not know
	// Range requests returns an error.
	Part(ctx context.Context, digest string, at, n int64) (io.ReadCloser, error)
	// OpenAt opens a blob of size bytes for reading anywhere. The error is
	// errors.ErrUnsupported where the place is not on this computer.
	OpenAt(digest string, size int64) (image.ReaderAt, error)
	// Referrers lists the manifests that refer to one.
	Referrers(ctx context.Context, digest string) ([]image.Descriptor, error)
}

// Target is a place that can be written to. Changes of a place that is there
// begin with Edit and end with Finish.
type Target interface {
	Place
	Edit() error
	Finish() error
	// PutBlob stores a blob, unless it is there.
	PutBlob(ctx context.Context, d image.Descriptor, open func() (io.ReadCloser, error)) error
	// PutManifest stores a manifest or an index under a tag, or under its
	// digest alone where the tag is "".
	PutManifest(ctx context.Context, tag string, d image.Descriptor, b []byte) error
	// PutReferrers has the place list manifests that it has as referrers of a
	// digest, all at once: a list under a tag may be written only once.
	PutReferrers(ctx context.Context, digest string, list []image.Descriptor) error
}

// Options say how registries are spoken to.
type Options struct {
	PlainHTTP bool           // speak HTTP without TLS, to this registry only
	CA        *x509.CertPool // who vouches for it; nil: the system's
	Keychain  authn.Keychain // nil: no login
	UserAgent string
	// Certificate is shown to the registry, where it asks for one; nil is none.
	Certificate *tls.Certificate
	// SkipVerify takes any certificate of the registry's, and of no other
	// server's. Signatures are checked all the same, but whoever stands between
	// learns the password.
	SkipVerify bool
	// Silence is how long the registry may send next to nothing before a request
	// is given up; 0 is a minute.
	Silence time.Duration
	// Backoff is the time before the first of several new tries; 0 is a
	// second.
	Backoff time.Duration
}

// Locate returns the place a reference is in, and the tag or digest that it
// names there: a directory with an OCI layout (a build's output directory too), an
// archive of one, or host/repository:tag. The error is fs.ErrNotExist for a path
// where nothing is.
func Locate(ref string, o Options) (Place, string, error) {
	st, err := os.Stat(ref)
	switch {
	case err == nil && st.IsDir():
		l, err := layoutIn(ref)
		return l, "", err
	case err == nil:
		p, err := OpenArchive(ref)
		return p, "", err
	case IsReference(ref):
		return newRemote(ref, o)
	case errors.Is(err, fs.ErrNotExist):
		return nil, "", hint.With(fmt.Errorf("opening %s: %w", ref, fs.ErrNotExist),
			"name a file, a directory, or a registry's reference, which begins with a host: registry.example/name:tag")
	}
	return nil, "", err
}

// layoutIn returns the layout in a directory, which may be a build's output.
func layoutIn(ref string) (*Layout, error) {
	for _, dir := range []string{filepath.Join(ref, "artifact"), ref} {
		if _, err := os.Stat(filepath.Join(dir, layoutFile)); err == nil {
			return OpenLayout(dir), nil
		}
	}
	return nil, hint.With(fmt.Errorf("opening %s: no OCI layout found", ref),
		"name a build's output directory, a layout, an archive of one, or a registry's reference")
}

// LocateTarget is Locate of a place that can be written to: a directory with an
// OCI layout, or a repository.
func LocateTarget(ref string, o Options) (Target, string, error) {
	if IsReference(ref) {
		if _, err := os.Stat(ref); err != nil {
			return Repository(ref, o)
		}
	}
	if st, err := os.Stat(ref); err != nil || !st.IsDir() {
		return nil, "", fmt.Errorf("%s cannot be changed in place; want a registry's reference or a directory with an OCI layout", ref)
	}
	l, err := layoutIn(ref)
	return l, "", err
}

// Repository returns the repository that a registry's reference names, and its
// tag or digest; the error says what is wrong with the reference.
func Repository(ref string, o Options) (*Remote, string, error) { return newRemote(ref, o) }

// Name returns a registry's reference without its tag and digest: the repository, as
// it is written there.
func Name(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		return ref[:i]
	}
	return ref
}

// IsReference tells a registry's reference from a path: it begins with a host,
// which has a dot or a port, or is localhost (and is no drive of Windows).
func IsReference(s string) bool {
	host, rest, ok := strings.Cut(s, "/")
	return ok && rest != "" && len(host) > 2 && !strings.HasPrefix(host, ".") && (strings.ContainsAny(host, ".:") || host == "localhost")
}

// Signatures returns what was signed of a digest, in cosign's classic form and in
// bundles. It is not checked, but bounded. Where one form could not be read, what
// the other one holds comes with the error.
func Signatures(ctx context.Context, p Place, digest string) ([]image.Signed, error) {
	list, err := classic(ctx, p, digest)
	found, other := bundles(ctx, p, digest)
	for _, b := range found {
		list = image.Join(list, []image.Signed{b.signed})
	}
	return list, errors.Join(err, other)
}

// isSigned reports whether one of the keys signed a digest. Where one form could
// not be read, and the other one does not hold such a signature, it is an error.
func isSigned(ctx context.Context, p Place, digest string, keys []*ecdsa.PublicKey) (bool, error) {
	list, err := Signatures(ctx, p, digest)
	if image.VerifyDigest(digest, list, keys) == nil {
		return true, nil
	}
	return false, err
}

// classic returns the signatures of a digest in cosign's classic form.
func classic(ctx context.Context, p Place, digest string) ([]image.Signed, error) {
	_, b, err := p.Manifest(ctx, image.CosignTag(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the signatures of %s: %w", digest, err)
	}
	layers, err := image.DecodeCosign(b)
	if err != nil {
		return nil, err
	}
	var list []image.Signed
	for _, l := range layers {
		b, err := readAll(newReader(ctx, p, l.Digest, l.Size))
		if err != nil {
			return nil, fmt.Errorf("reading a signature of %s: %w", digest, err)
		}
		list = append(list, image.Signed{Payload: b, Signature: l.Signature})
	}
	return list, nil
}

func readAll(r io.ReadCloser) ([]byte, error) {
	defer r.Close()
	return io.ReadAll(r)
}

// readManifest is Place.Manifest for a digest, with the digest checked.
func readManifest(ctx context.Context, p Place, digest string) (image.Descriptor, []byte, error) {
	d, b, err := p.Manifest(ctx, digest)
	if err != nil {
		return d, nil, err
	}
	if got := image.DigestOf(b); got != digest {
		return d, nil, fmt.Errorf("reading the manifest %s from %s: digest mismatch: got %s", digest, p, got)
	}
	return d, b, nil
}
