package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// headless is a transport for registries without HEAD: a blob that cannot be asked
// for with it is taken for missing, and is sent.
type headless struct{ inner http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (h headless) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := h.inner.RoundTrip(r)
	if err != nil || r.Method != http.MethodHead {
		return resp, err
	}
	if resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusNotImplemented {
		resp.StatusCode, resp.Status = http.StatusNotFound, "404 Not Found"
	}
	return resp, err
}

// PutManifest implements Target. remote.Put of go-containerregistry is not used:
// it takes any answer but four for a failure of the referrers API
// (google/go-containerregistry#1962), writes a list of referrers under a tag once
// for every manifest, with the wrong types, and wants digests in headers that not all registries send.
func (r *Remote) PutManifest(ctx context.Context, tag string, d image.Descriptor, b []byte) error {
	ref := tag
	if ref == "" {
		ref = d.Digest
	}
	there, _, err := r.Manifest(ctx, ref)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// A manifest that the tag names already is not sent: the tag may be immutable.
	if err == nil && there.Digest == d.Digest {
		return nil
	}
	return r.send(ctx, ref, d.MediaType, b)
}

// send puts a manifest under a tag or its digest.
func (r *Remote) send(ctx context.Context, ref, mediaType string, b []byte) error {
	client, err := r.writer(ctx)
	if err != nil {
		return err
	}
	for failed := 1; ; failed++ {
		err := r.sendOnce(ctx, client, ref, mediaType, b)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || !Temporary(err) || failed == Tries {
			return r.explain(explainPut(fmt.Errorf("writing the manifest %s: %w", ref, err), ref, b))
		}
		if err := Wait(ctx, r.Backoff(), failed); err != nil {
			return err
		}
	}
}

func (r *Remote) sendOnce(ctx context.Context, client *http.Client, ref, mediaType string, b []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, r.url("manifests/"+ref), bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return transport.CheckError(resp, http.StatusOK, http.StatusCreated, http.StatusAccepted)
}

// writer returns a client that may write. It makes no request twice: a body is
// sent again by send.
func (r *Remote) writer(ctx context.Context) (*http.Client, error) {
	if _, err := r.login(ctx); err != nil { // which retries, and whose errors are clearer
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sender != nil {
		return r.sender, nil
	}
	auth, err := r.account(ctx)
	if err != nil {
		return nil, err
	}
	t := r.base
	if r.options.UserAgent != "" {
		t = transport.NewUserAgent(t, r.options.UserAgent)
	}
	logged, err := transport.NewWithContext(ctx, r.repo.Registry, auth, t, []string{r.repo.Scope(transport.PushScope)})
	if err != nil {
		return nil, r.explain(err)
	}
	r.sender = &http.Client{Transport: logged}
	return r.sender, nil
}
