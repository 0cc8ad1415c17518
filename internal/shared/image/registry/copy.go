package registry

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// Progress is called with how many more bytes were copied, from several
// goroutines.
type Progress func(int64)

// jobs is how many blobs are copied at once.
const jobs = 4

// copier copies an image with what belongs to it.
type copier struct {
	img      *Published
	to       Target
	key      *ecdsa.PrivateKey // signs; may be nil
	progress Progress
	done     sync.Map // digests of blobs that are there
}

// Copy copies an image to another place: its files, what refers to it and is
// signed by a key that the image was checked with, attestations by such a key, the
// signatures of all in both forms, and, when all of that is there, the tags that name it. With a key it
// signs what it copies. What is there is not sent again.
//
// Signatures follow what they sign, because some registries refuse a signature
// of a manifest they do not have (sigstore/cosign#2208). Until a tag names the
// image no reader looks for them.
func Copy(ctx context.Context, img *Published, to Target, tags []string, key *ecdsa.PrivateKey, progress Progress) error {
	c := &copier{img: img, to: to, key: key, progress: progress}
	referrers, err := img.signedReferrers(ctx)
	if err != nil {
		return fmt.Errorf("looking for what refers to %s: %w", img, err)
	}
	attested, err := img.attested(ctx, key)
	if err != nil {
		return err
	}
	all := append([][]byte{img.Signature.Manifest}, referrers...) // found only once all they name is there
	g, inner := errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	for _, b := range all {
		m, err := image.DecodeOCI(b)
		if err != nil {
			return err
		}
		c.blobs(inner, g, m)
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if img.Index != nil {
		all = append(all, img.Index)
	}
	for _, b := range all {
		if err := to.PutManifest(ctx, "", image.Describe(b), b); err != nil {
			return err
		}
	}
	done := make([]written, len(all))
	g, inner = errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	for i, b := range all {
		g.Go(func() (err error) {
			done[i], err = c.signatures(inner, b)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, b := range referrers { // of the first one, which is the image
		done[0].listed = append(done[0].listed, referrerOf(b))
	}
	listed, err := putAttestations(ctx, to, attested)
	if err != nil {
		return err
	}
	done[0].listed = append(done[0].listed, listed...)
	for _, w := range done { // found only once their signatures are there
		if err := to.PutReferrers(ctx, w.digest, w.listed); err != nil {
			return err
		}
	}
	if err := readBack(ctx, to, done); err != nil {
		return err
	}
	top := img.top()
	for _, tag := range tags {
		if err := putTag(ctx, to, tag, top); err != nil {
			return err
		}
	}
	return nil
}

// Bounds on what is said of an image: how many manifests that refer to it are
// looked at, how many go with it, and the bytes of each one's blobs. The largest
// are patches.
const (
	maxListed    = 256
	maxReferrers = 64
	maxReferrer  = image.MaxPatch
)

// signedReferrers returns the manifests that refer to an image and that one of
// the keys signed which the image was checked with. Everything else a registry may
// make up, as much as it likes.
func (img *Published) signedReferrers(ctx context.Context) ([][]byte, error) {
	list, err := img.From.Referrers(ctx, img.Digest)
	if err != nil {
		return nil, err
	}
	var found [][]byte
	for _, d := range list[:min(len(list), maxListed)] {
		if d.ArtifactType == image.MediaBundle {
			continue // a signature is not signed
		}
		signed, err := isSigned(ctx, img.From, d.Digest, img.trusted)
		if err != nil {
			return nil, err
		}
		if !signed {
			continue
		}
		b, err := readReferrer(ctx, img.From, d.Digest, img.Digest)
		if errors.Is(err, errNoReferrer) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if found = append(found, b); len(found) == maxReferrers {
			break
		}
	}
	return found, nil
}

// errNoReferrer is returned for a manifest that does not refer to an image,
// whatever the registry lists, or that is an image or a signature itself.
var errNoReferrer = errors.New("not a referrer of the image")

// readReferrer reads a manifest that refers to an image, and checks that it does
// and that its blobs are bounded.
func readReferrer(ctx context.Context, p Place, digest, subject string) ([]byte, error) {
	_, b, err := readManifest(ctx, p, digest)
	if err != nil {
		return nil, err
	}
	m, err := image.DecodeOCI(b)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", digest, err)
	}
	if m.Subject == nil || m.Subject.Digest != subject || m.ArtifactType == image.ArtifactType || m.ArtifactType == image.MediaBundle {
		return nil, fmt.Errorf("reading %s: %w", digest, errNoReferrer)
	}
	left := int64(maxReferrer)
	for _, d := range append([]image.Descriptor{m.Config}, m.Layers...) {
		if d.Size > left {
			return nil, fmt.Errorf("reading %s, which refers to %s: blobs of more than %d bytes", digest, subject, int64(maxReferrer))
		}
		left -= d.Size
	}
	return b, nil
}

// signatures copies the signatures of a manifest, with the key's own, and returns
// what has to be found from there on.
func (c *copier) signatures(ctx context.Context, manifest []byte) (written, error) {
	d := image.Describe(manifest)
	w := written{digest: d.Digest}
	if m, err := image.DecodeOCI(manifest); err == nil && d.MediaType == image.MediaOCIManifest {
		w.blobs = append(w.blobs, m.Config)
		w.blobs = append(w.blobs, m.Layers...)
	}
	list, err := classic(ctx, c.img.From, d.Digest)
	if err != nil {
		return w, err
	}
	found, err := bundles(ctx, c.img.From, d.Digest)
	if err != nil && !(errors.Is(err, errUnknownReferrers) && len(list) > 0) {
		return w, err
	}
	if c.key != nil {
		s, own, err := signBoth(d, c.key)
		if err != nil {
			return w, err
		}
		list, found = image.Join(list, []image.Signed{s}), append(found, own)
	}
	return w, w.sign(ctx, c.to, list, found)
}

// sign adds signatures to those that a place has of what was written, and notes
// what has to be found there.
func (w *written) sign(ctx context.Context, at Target, list []image.Signed, found []bundle) error {
	if err := addSignatures(ctx, at, w.digest, list); err != nil {
		return err
	}
	w.signed = list
	listed, err := addBundles(ctx, at, w.digest, found)
	if err != nil {
		return err
	}
	w.listed = listed
	if r, ok := at.(*Remote); ok && r.RefusesBundles() != nil {
		return nil
	}
	for _, b := range found {
		w.signed = image.Join(w.signed, []image.Signed{b.signed})
	}
	return nil
}

// signBoth signs what d describes in both forms.
func signBoth(d image.Descriptor, key *ecdsa.PrivateKey) (image.Signed, bundle, error) {
	old, err := image.SignDigest(d.Digest, key)
	if err != nil {
		return old, bundle{}, err
	}
	s, err := image.SignBundle(d.Digest, key)
	if err != nil {
		return old, bundle{}, err
	}
	b, err := newBundle(s, d, &key.PublicKey)
	return old, b, err
}

// addBoth adds a key's signatures of what d describes, in both forms, to those a
// place has. What has to be found there is returned.
func addBoth(ctx context.Context, at Target, d image.Descriptor, key *ecdsa.PrivateKey) (written, error) {
	w := written{digest: d.Digest}
	s, b, err := signBoth(d, key)
	if err != nil {
		return w, err
	}
	if err := w.sign(ctx, at, []image.Signed{s}, []bundle{b}); err != nil {
		return w, err
	}
	return w, at.PutReferrers(ctx, d.Digest, w.listed)
}

// blobs copies what a manifest lists. A registry checks what it is sent
// itself; what comes to this computer is checked here.
func (c *copier) blobs(ctx context.Context, g *errgroup.Group, m *image.OCIManifest) {
	checks := c.to.Remote()
	for _, d := range append([]image.Descriptor{m.Config}, m.Layers...) {
		if _, there := c.done.LoadOrStore(d.Digest, true); there {
			continue
		}
		g.Go(func() error {
			return c.to.PutBlob(ctx, d, func() (io.ReadCloser, error) {
				r := newReader(ctx, c.img.From, d.Digest, d.Size)
				if checks {
					r.sum = nil
				}
				return metered{r, c.progress}, nil
			})
		})
	}
}

// metered is a reader of a blob that reports its progress.
type metered struct {
	*reader
	progress Progress
}

func (t metered) resume(f io.Reader) error {
	err := t.reader.resume(f)
	t.count(t.at)
	return err
}

func (t metered) count(n int64) {
	if t.progress != nil {
		t.progress(n)
	}
}

// Read implements io.Reader.
func (t metered) Read(b []byte) (int, error) {
	n, err := t.reader.Read(b)
	t.count(int64(n))
	return n, err
}

// WriteTo implements io.WriterTo.
func (t metered) WriteTo(w io.Writer) (int64, error) {
	return t.reader.WriteTo(io.MultiWriter(w, counter(t.progress)))
}

// addSignatures adds signatures of a digest in cosign's classic form to those a
// place has.
func addSignatures(ctx context.Context, to Target, digest string, list []image.Signed) error {
	old, err := classic(ctx, to, digest)
	if err != nil {
		return err
	}
	all := image.Join(old, list)
	if len(all) == len(old) {
		return nil
	}
	m, blobs, err := image.EncodeCosign(all)
	if err != nil {
		return err
	}
	for _, b := range blobs {
		if err := putBytes(ctx, to, b); err != nil {
			return err
		}
	}
	return to.PutManifest(ctx, image.CosignTag(digest), image.Describe(m), m)
}

// Sign adds a key's signatures, in both forms, to an image where it is: to its OCI
// manifest, the index that leads to it, and what refers to it. It returns the
// digests that were signed.
func Sign(ctx context.Context, at Target, ref, arch string, key *ecdsa.PrivateKey) ([]string, error) {
	img, err := open(ctx, at, ref, arch)
	if err != nil {
		return nil, err
	}
	all := [][]byte{img.Signature.Manifest}
	if img.Index != nil {
		all = append(all, img.Index)
	}
	referrers, err := at.Referrers(ctx, img.Digest)
	if err != nil {
		return nil, err
	}
	for _, d := range referrers[:min(len(referrers), maxListed)] {
		if d.ArtifactType == image.MediaBundle {
			continue // a signature is not signed
		}
		// A registry may list anything, another image among it, to have it signed.
		b, err := readReferrer(ctx, at, d.Digest, img.Digest)
		if errors.Is(err, errNoReferrer) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	if err := at.Edit(); err != nil {
		return nil, err
	}
	var digests []string
	var done []written
	for _, b := range all {
		w, err := addBoth(ctx, at, image.Describe(b), key)
		if err != nil {
			return nil, err
		}
		digests, done = append(digests, w.digest), append(done, w)
	}
	if err := readBack(ctx, at, done); err != nil {
		return nil, err
	}
	return digests, at.Finish()
}

// Tagged returns the image a tag of a place names, or nil where the tag is not
// there. Nothing but its form is checked.
func Tagged(ctx context.Context, p Place, tag, arch string) (*Published, error) {
	img, err := open(ctx, p, tag, arch)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return img, err
}

// ErrDowngrade is returned for a release that is lower than the one a channel
// names, without the key that allows it.
var ErrDowngrade = errors.New("nodes do not go back by themselves")

// Move has a channel's tag name an image that is in the same place. A lower
// release than the channel names takes a key, with which the statement is
// signed that lets nodes go back to it; without one the error is ErrDowngrade.
// A registry is read back: the error is ErrIncomplete, ErrTypeRefused and
// ErrTagRefused as with Copy.
func Move(ctx context.Context, img *Published, at Target, channel string, allow *ecdsa.PrivateKey) error {
	if !IsChannel(channel) {
		return fmt.Errorf("invalid channel %q: numbers are releases", channel)
	}
	now, err := Tagged(ctx, at, channel, img.Arch)
	if err != nil {
		return fmt.Errorf("reading channel %q: %w", channel, err)
	}
	if now != nil && now.Digest == img.Digest {
		return nil
	}
	if now != nil && now.Stream != img.Stream {
		return fmt.Errorf("channel %s is one of stream %q; this image is of %q", channel, now.Stream, img.Stream)
	}
	if now != nil && image.CompareReleases(img.Release, now.Release) < 0 {
		if allow == nil {
			return fmt.Errorf("channel %s is at release %s, and this is %s: %w", channel, now.Release, img.Release, ErrDowngrade)
		}
		s, err := image.SignDowngrade(img.Digest, image.Downgrade{Channel: channel, From: now.Release}, allow)
		if err != nil {
			return err
		}
		if err := addSignatures(ctx, at, img.Digest, []image.Signed{s}); err != nil {
			return err
		}
		if err := readBack(ctx, at, []written{{digest: img.Digest, signed: []image.Signed{s}}}); err != nil {
			return err
		}
	}
	return putTag(ctx, at, channel, img.top())
}
