package oci

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// PlainPrefix before a reference says that its registry is spoken to without
// TLS.
const PlainPrefix = "http://"

// Client is what images of one reference are asked for with.
type Client struct {
	Reference name.Reference
	Options   []remote.Option

	text  string
	login registry.Login
}

// silence is how long a registry may send next to nothing, and backoff is the
// time before the first retry of a request.
const (
	silence = time.Minute
	backoff = time.Second
)

// Reference reads a registry's reference as image.CheckReference has it, with a
// tag or a digest. Only with PlainPrefix is anything sent without TLS,
// credentials least of all: go-containerregistry would do so for hosts that look
// local, and wherever a registry redirects to. The login is docker's.
func Reference(ctx context.Context, text string) (*Client, error) {
	bare, plain := strings.CutPrefix(text, PlainPrefix)
	if err := image.CheckReference(bare); err != nil {
		return nil, err
	}
	options := []name.Option{name.WithDefaultTag("")}
	if plain {
		options = append(options, name.Insecure)
	}
	r, err := name.ParseReference(bare, options...)
	if err != nil {
		return nil, err
	}
	if r.Identifier() == "" {
		return nil, hint.Withf(fmt.Errorf("%q names a repository; want an image in it", text), "write %s:TAG", text)
	}
	login, err := registry.FindLogin(ctx, authn.DefaultKeychain, r.Context())
	if err != nil {
		return nil, err
	}
	t := guard{registry.Patient(remote.DefaultTransport, silence), plain, r.Context().RegistryStr()}
	o := append(registry.RetryOptions(backoff), remote.WithRetryPredicate(temporary),
		remote.WithContext(ctx), remote.WithAuth(login), remote.WithTransport(t))
	return &Client{r, o, text, login}, nil
}

// temporary reports whether a request is worth a retry.
func temporary(err error) bool {
	return !errors.Is(err, errPlain) && !errors.Is(err, errTold) && registry.Temporary(err)
}

var (
	errPlain = errors.New("refusing HTTP without TLS")
	errTold  = errors.New("TLS was not tried: the reference begins with " + PlainPrefix)
)

// guard keeps a client from speaking HTTP without TLS where it was not told
// to; and, where it was, from waiting for TLS.
type guard struct {
	inner http.RoundTripper
	plain bool
	host  string // the registry's
}

// RoundTrip implements http.RoundTripper.
func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	switch {
	case r.URL.Scheme != "https" && !g.plain:
		return nil, fmt.Errorf("%w to %s", errPlain, r.URL.Host)
	case r.URL.Scheme == "https" && g.plain && r.URL.Host == g.host:
		return nil, errTold
	}
	return g.inner.RoundTrip(r)
}

// Explain adds what helps to an error of a request for the reference.
func (c *Client) Explain(err error) error {
	if err != nil && (errors.Is(err, errPlain) || registry.WithoutTLS(err)) {
		return hint.Withf(err, "write %s%s if the registry is to be spoken to without TLS", PlainPrefix, c.text)
	}
	return c.login.Explain(err)
}
