package oci

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// PlainPrefix before a reference says that its registry is spoken to without
// TLS.
const PlainPrefix = "http://"

// Reference reads a registry's reference, and returns it with the options to
// ask for it. Only with PlainPrefix is anything sent without TLS, credentials
// least of all: go-containerregistry would do so for hosts that look local,
// and wherever a registry redirects to.
func Reference(ctx context.Context, ref string) (name.Reference, []remote.Option, error) {
	ref, plain := strings.CutPrefix(ref, PlainPrefix)
	var options []name.Option
	if plain {
		options = append(options, name.Insecure)
	}
	r, err := name.ParseReference(ref, options...)
	if err != nil {
		return nil, nil, err
	}
	t := guard{remote.DefaultTransport, plain, r.Context().RegistryStr()}
	return r, []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithTransport(t)}, nil
}

var (
	errPlain = errors.New("refused to speak HTTP without TLS")
	errTold  = errors.New("TLS was not tried, because the reference begins with " + PlainPrefix)
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

// Explain adds to an error of asking for a reference what to do about it.
func Explain(ref string, err error) error {
	if err != nil && (errors.Is(err, errPlain) || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")) {
		return fmt.Errorf("%w; if the registry should be spoken to without TLS, write %s%s", err, PlainPrefix, ref)
	}
	return err
}
