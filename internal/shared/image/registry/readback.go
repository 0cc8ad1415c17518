package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"

	"golang.org/x/sync/errgroup"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// ErrIncomplete is returned for a registry that took everything it was sent, and
// does not give all of it back to who begins with a digest.
var ErrIncomplete = errors.New("the registry does not give back what it was sent")

// written is what a manifest's digest has to lead to.
type written struct {
	digest string
	blobs  []image.Descriptor
	signed []image.Signed     // in both forms
	listed []image.Descriptor // as referrers
}

// readBack reads, as a client that knows nothing yet, what was written. Registries
// that list a moment later get that moment. The error is ErrIncomplete where
// something is missing. Other places than registries are not read.
func readBack(ctx context.Context, to Target, list []written) error {
	r, ok := to.(*Remote)
	if !ok {
		return nil
	}
	for failed := 1; ; failed++ {
		var g errgroup.Group // one that is missing does not end the others: the next try needs fewer
		g.SetLimit(jobs)
		fresh := &Remote{repo: r.repo, options: r.options, base: r.base}
		for _, w := range list {
			g.Go(func() error { return fresh.check(ctx, w) })
		}
		err := g.Wait()
		if err == nil || !errors.Is(err, ErrIncomplete) {
			return err
		}
		if failed == Tries {
			return hint.With(err, "publish again; where that does not help, the registry does not store OCI artifacts as it should: take another")
		}
		if err := Wait(ctx, r.Backoff(), failed); err != nil {
			return err
		}
	}
}

// putTag has a tag name what is there already.
func putTag(ctx context.Context, to Target, tag string, b []byte) error {
	d := image.Describe(b)
	if err := to.PutManifest(ctx, tag, d, b); err != nil {
		return fmt.Errorf("writing the tag %q: %w", tag, err)
	}
	if !to.Remote() {
		return nil
	}
	there, _, err := to.Manifest(ctx, tag)
	if err != nil {
		return missing(to.Reference(tag), "what it was to name", err)
	}
	if there.Digest != d.Digest {
		err := fmt.Errorf("%w: %s names %s; want %s", ErrIncomplete, to.Reference(tag), there.Digest, d.Digest)
		return hint.With(err, "publish again: somebody else may have written the tag, or a cache answers for the registry")
	}
	return nil
}

// check reads back what a digest has to lead to.
func (r *Remote) check(ctx context.Context, w written) error {
	if _, _, err := readManifest(ctx, r, w.digest); err != nil {
		return missing(r.Reference(w.digest), "the manifest itself", err)
	}
	for _, d := range w.blobs {
		if err := r.has(ctx, d); err != nil {
			return missing(r.Reference(w.digest), "its blob "+d.Digest, err)
		}
	}
	got, err := Signatures(ctx, r, w.digest)
	if all := image.Join(got, w.signed); len(all) != len(got) {
		what := fmt.Sprintf("%d of its %d signatures", len(all)-len(got), len(w.signed))
		return missing(r.Reference(w.digest), what, errors.Join(fs.ErrNotExist, err))
	}
	if len(w.listed) == 0 {
		return nil
	}
	there, err := r.Referrers(ctx, w.digest)
	if err != nil {
		return missing(r.Reference(w.digest), "what refers to it", err)
	}
	for _, d := range w.listed {
		if !lists(there, d.Digest) {
			return missing(r.Reference(w.digest), fmt.Sprintf("%s of type %q, which refers to it", d.Digest, d.ArtifactType), fs.ErrNotExist)
		}
	}
	return nil
}

// missing is ErrIncomplete, unless the error says that it is not known.
func missing(from, what string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errUnknownReferrers) {
		return fmt.Errorf("%w: from %s, %s cannot be reached: %w", ErrIncomplete, from, what, err)
	}
	return fmt.Errorf("reading back %s, %s: %w", from, what, err)
}

// has reports whether the registry has a blob; fs.ErrNotExist where it has not.
func (r *Remote) has(ctx context.Context, d image.Descriptor) error {
	client, err := r.login(ctx)
	if err != nil {
		return err
	}
	for _, method := range []string{http.MethodHead, http.MethodGet} { // the second for registries without the first
		req, err := http.NewRequestWithContext(ctx, method, r.url("blobs/"+d.Digest), nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return r.explain(err)
		}
		resp.Body.Close()
		switch {
		case resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusNotImplemented:
			continue
		case resp.StatusCode == http.StatusNotFound:
			return fmt.Errorf("%s: %w", r.Reference(d.Digest), fs.ErrNotExist)
		}
		if err := transport.CheckError(resp, http.StatusOK); err != nil {
			return r.explain(err)
		}
		return nil
	}
	return fmt.Errorf("%s answers neither HEAD nor GET of blobs", r)
}
