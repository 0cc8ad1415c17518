package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// Remote is a repository of a registry.
type Remote struct {
	repo    name.Repository
	options Options
	base    http.RoundTripper

	mu     sync.Mutex
	client *http.Client // logged in; nil before the first request
	pusher *remote.Pusher

	noBundles error        // why the registry refused a bundle; nil where it did not
	sender    *http.Client // logged in to write, without retries; nil before the first manifest

	referrers referrersAPI

	accountMu sync.Mutex
	found     *Login // nil before the first request
}

// newRemote reads a reference. Nothing is asked of the registry yet.
func newRemote(ref string, o Options) (*Remote, string, error) {
	if err := image.CheckReference(ref); err != nil {
		if strings.HasPrefix(ref, "http://") {
			err = hint.With(err, "allow plain HTTP for a registry without TLS")
		}
		return nil, "", fmt.Errorf("reading the reference: %w", err)
	}
	options := []name.Option{name.WithDefaultTag("")}
	if o.PlainHTTP {
		options = append(options, name.Insecure)
	}
	r, err := name.ParseReference(ref, options...)
	if err != nil {
		return nil, "", fmt.Errorf("reading the reference %s: %w", ref, err)
	}
	if o.Backoff == 0 {
		o.Backoff = time.Second
	}
	if o.Silence == 0 {
		o.Silence = silence
	}
	own := &tls.Config{RootCAs: o.CA, MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.SkipVerify}
	if o.Certificate != nil {
		own.Certificates = []tls.Certificate{*o.Certificate}
	}
	base := guard{
		own:    newTransport(own, o),
		others: newTransport(&tls.Config{RootCAs: o.CA, MinVersion: tls.VersionTLS12}, o),
		plain:  o.PlainHTTP,
		host:   r.Context().RegistryStr(),
	}
	return &Remote{repo: r.Context(), options: o, base: newConsiderate(base)}, r.Identifier(), nil
}

// newTransport returns a transport that bounds what a registry may have it do.
func newTransport(c *tls.Config, o Options) http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = c
	return bounded{t, o.Silence}
}

// guard keeps a client from speaking HTTP without TLS where it was not told
// to: go-containerregistry falls back to that for hosts that look local, and a
// registry may redirect to it. Where it was told to, guard keeps the client from
// waiting for TLS.
type guard struct {
	own    http.RoundTripper // for the registry
	others http.RoundTripper // for those it sends to
	plain  bool
	host   string // the registry's
}

// ErrWithoutTLS is returned for a registry that does not speak TLS, unless
// Options.PlainHTTP allows that.
var ErrWithoutTLS = errors.New("the registry does not speak TLS")

// ErrCertificate is returned for a registry whose certificate is not trusted.
var ErrCertificate = errors.New("untrusted certificate")

// errNotTried is returned for requests with TLS to a registry with
// Options.PlainHTTP.
var errNotTried = errors.New("TLS was not tried: the registry is used with plain HTTP")

// RoundTrip implements http.RoundTripper.
func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	switch {
	case r.URL.Scheme != "https" && !g.plain:
		return nil, ErrWithoutTLS
	case r.URL.Scheme == "https" && g.plain && r.URL.Host == g.host:
		return nil, errNotTried
	}
	if r.URL.Host == g.host {
		return g.own.RoundTrip(r)
	}
	return g.others.RoundTrip(r)
}

// String implements Place.
func (r *Remote) String() string { return r.repo.Name() }

// Remote implements Place.
func (r *Remote) Remote() bool { return true }

// Backoff implements Place.
func (r *Remote) Backoff() time.Duration { return r.options.Backoff }

// Edit implements Target: a registry needs no preparation.
func (r *Remote) Edit() error { return nil }

// Finish implements Target.
func (r *Remote) Finish() error { return nil }

// Reference returns how a tag or digest of the repository is written.
func (r *Remote) Reference(ref string) string {
	switch {
	case ref == "":
		return r.repo.Name()
	case strings.HasPrefix(ref, "sha256:"):
		return r.repo.Name() + "@" + ref
	}
	return r.repo.Name() + ":" + ref
}

// retry is when a request is made again, and how long after the one before.
func (r *Remote) retry() transport.Backoff {
	return transport.Backoff{Duration: r.options.Backoff, Factor: 2, Jitter: 0.1, Steps: Tries - 1}
}

// account returns who logs in.
func (r *Remote) account(ctx context.Context) (Login, error) {
	r.accountMu.Lock()
	defer r.accountMu.Unlock()
	if r.found == nil {
		l, err := FindLogin(ctx, r.options.Keychain, r.repo)
		if err != nil {
			return l, err
		}
		r.found = &l
	}
	return *r.found, nil
}

// login returns a client that carries what the registry wants to see.
func (r *Remote) login(ctx context.Context) (*http.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != nil {
		return r.client, nil
	}
	auth, err := r.account(ctx)
	if err != nil {
		return nil, err
	}
	t := transport.NewRetry(r.base, transport.WithRetryBackoff(r.retry()), transport.WithRetryPredicate(Temporary),
		transport.WithRetryStatusCodes(retryCodes...))
	if r.options.UserAgent != "" {
		t = transport.NewUserAgent(t, r.options.UserAgent)
	}
	if err := r.greet(ctx, t); err != nil {
		return nil, r.explain(err)
	}
	logged, err := transport.NewWithContext(ctx, r.repo.Registry, auth, t, []string{r.repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, r.explain(err)
	}
	r.client = &http.Client{Transport: logged}
	return r.client, nil
}

// greet checks that the registry speaks TLS, where go-containerregistry would
// try without too, and then return the one failure for the other.
func (r *Remote) greet(ctx context.Context, t http.RoundTripper) error {
	if r.options.PlainHTTP || r.repo.Scheme() == "https" {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+r.repo.RegistryStr()+"/v2/", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return transport.CheckError(resp, http.StatusOK, http.StatusUnauthorized)
}

// explain names the repository in an error, and adds what helps where the registry
// refused the account.
func (r *Remote) explain(err error) error {
	var bad *tls.CertificateVerificationError
	var login Login
	r.accountMu.Lock()
	if r.found != nil {
		login = *r.found
	}
	r.accountMu.Unlock()
	switch {
	case WithoutTLS(err), errors.Is(err, ErrWithoutTLS):
		return fmt.Errorf("%s: %w", r.repo.Registry, ErrWithoutTLS)
	case errors.As(err, &bad):
		return fmt.Errorf("%s: %w: %w", r.repo.Registry, ErrCertificate, bad)
	}
	return fmt.Errorf("%s: %w", r, login.Explain(err))
}

// errRange is returned for an answer with another range than was asked for.
var errRange = errors.New("the registry sent another range of the blob than was asked for")

// get asks for a path below the repository, from an offset on.
func (r *Remote) get(ctx context.Context, path, accept string, from int64) (*http.Response, error) {
	if from > 0 {
		return r.getRange(ctx, path, accept, fmt.Sprintf("bytes=%d-", from))
	}
	return r.getRange(ctx, path, accept, "")
}

// getRange asks for a range of what is at a path; "" is all of it.
func (r *Remote) getRange(ctx context.Context, path, accept, bytes string) (*http.Response, error) {
	return r.ask(ctx, r.url(path), accept, bytes)
}

// url returns the address of a path below the repository.
func (r *Remote) url(path string) string {
	return fmt.Sprintf("%s://%s/v2/%s/%s", r.repo.Scheme(), r.repo.RegistryStr(), r.repo.RepositoryStr(), path)
}

// ask asks for a range of what is at an address of the registry.
func (r *Remote) ask(ctx context.Context, url, accept, bytes string) (*http.Response, error) {
	client, err := r.login(ctx)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	// What is compressed on its way cannot be gone on with in the middle.
	req.Header.Set("Accept-Encoding", "identity")
	if bytes != "" {
		req.Header.Set("Range", bytes)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, r.explain(err)
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		resp.Body.Close()
		if resp.StatusCode == http.StatusNotFound {
			return nil, fmt.Errorf("%s: %s: %w", r, strings.TrimPrefix(url, r.url("")), fs.ErrNotExist)
		}
		return nil, r.explain(err)
	}
	return resp, nil
}

// Manifest implements Place.
func (r *Remote) Manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	var d image.Descriptor
	if ref == "" {
		return d, nil, hint.Withf(fmt.Errorf("%s names a repository; want an image in it", r), "write %s:TAG", r)
	}
	resp, err := r.get(ctx, "manifests/"+ref, image.MediaOCIIndex+", "+image.MediaOCIManifest, 0)
	if err != nil {
		return d, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, image.MaxOCI+1))
	if err != nil {
		return d, nil, fmt.Errorf("reading the manifest %s from %s: %w", ref, r, err)
	}
	if len(b) > image.MaxOCI {
		return d, nil, fmt.Errorf("reading the manifest %s from %s: more than %d bytes", ref, r, image.MaxOCI)
	}
	d = image.Describe(b)
	if strings.HasPrefix(ref, "sha256:") && d.Digest != ref {
		return d, nil, fmt.Errorf("reading the manifest %s from %s: digest mismatch: got %s", ref, r, d.Digest)
	}
	return d, b, nil
}

// begins checks that an answer is of a range that begins at a byte.
func begins(resp *http.Response, at int64) error {
	var first int64
	if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &first); err != nil || first != at {
		return errRange
	}
	return nil
}

// OpenAt implements Place: what is not here is copied first.
func (r *Remote) OpenAt(digest string, _ int64) (image.ReaderAt, error) {
	return nil, fmt.Errorf("opening %s for reading anywhere: %w", r.Reference(digest), errors.ErrUnsupported)
}

// Part implements Place.
func (r *Remote) Part(ctx context.Context, digest string, at, n int64) (io.ReadCloser, error) {
	resp, err := r.getRange(context.WithValue(ctx, wholeBlob{}, true), "blobs/"+digest, "", fmt.Sprintf("bytes=%d-%d", at, at+n-1))
	if err != nil {
		return nil, err
	}
	if err := begins(resp, at); err != nil || resp.StatusCode != http.StatusPartialContent {
		resp.Body.Close()
		return nil, errRange
	}
	return resp.Body, nil
}

// Blob implements Place.
func (r *Remote) Blob(ctx context.Context, digest string, size, from int64) (io.ReadCloser, error) {
	resp, err := r.get(context.WithValue(ctx, wholeBlob{}, true), "blobs/"+digest, "", from)
	if err != nil {
		return nil, err
	}
	if from > 0 && resp.StatusCode == http.StatusPartialContent {
		if err := begins(resp, from); err != nil {
			resp.Body.Close()
			return nil, err
		}
		return resp.Body, nil
	}
	// A registry need not know Range (docs/platform.md 10.2): then all of it
	// comes again.
	if _, err := io.CopyN(io.Discard, resp.Body, from); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp.Body, nil
}

func (r *Remote) pushOptions(ctx context.Context) ([]remote.Option, error) {
	auth, err := r.account(ctx)
	if err != nil {
		return nil, err
	}
	return append(RetryOptions(r.options.Backoff), remote.WithTransport(headless{r.base}), remote.WithAuth(auth),
		remote.WithUserAgent(r.options.UserAgent)), nil
}

func (r *Remote) push(ctx context.Context) (*remote.Pusher, error) {
	if _, err := r.login(ctx); err != nil { // whose errors are clearer
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pusher != nil {
		return r.pusher, nil
	}
	options, err := r.pushOptions(ctx)
	if err != nil {
		return nil, err
	}
	r.pusher, err = remote.NewPusher(options...)
	return r.pusher, err
}

// PutBlob implements Target.
func (r *Remote) PutBlob(ctx context.Context, d image.Descriptor, open func() (io.ReadCloser, error)) error {
	p, err := r.push(ctx)
	if err != nil {
		return err
	}
	h, err := v1.NewHash(d.Digest)
	if err != nil {
		return err
	}
	if err := p.Upload(ctx, r.repo, blob{d, h, open}); err != nil {
		return r.explain(err)
	}
	return nil
}

// blob is a blob as go-containerregistry sends it.
type blob struct {
	image.Descriptor
	hash v1.Hash
	open func() (io.ReadCloser, error)
}

func (b blob) Digest() (v1.Hash, error)             { return b.hash, nil }
func (b blob) DiffID() (v1.Hash, error)             { return b.hash, nil }
func (b blob) Compressed() (io.ReadCloser, error)   { return b.open() }
func (b blob) Uncompressed() (io.ReadCloser, error) { return b.open() }
func (b blob) Size() (int64, error)                 { return b.Descriptor.Size, nil }
func (b blob) MediaType() (types.MediaType, error) {
	return types.MediaType(b.Descriptor.MediaType), nil
}
