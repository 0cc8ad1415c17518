package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Login is an account at a registry: that of a keychain, or none. Where the
// keychain fails, as with a credential helper that is not installed, there is no
// account: many registries want none to read, and Explain tells the cause where
// one refuses.
type Login struct {
	authn.Authenticator
	failed error // of the keychain
}

// FindLogin asks a keychain for the account to use at a registry or repository;
// no keychain is no account. Its only error is that of ctx.
func FindLogin(ctx context.Context, k authn.Keychain, at authn.Resource) (Login, error) {
	if k == nil {
		return Login{Authenticator: authn.Anonymous}, nil
	}
	auth, err := authn.Resolve(ctx, k, at)
	if ctx.Err() != nil {
		return Login{}, ctx.Err()
	}
	if err != nil {
		return Login{authn.Anonymous, err}, nil
	}
	return Login{Authenticator: auth}, nil
}

// Explain adds to an error of a request what helps where the registry refused
// the account.
func (l Login) Explain(err error) error {
	switch {
	case !refused(err):
		return err
	case l.failed != nil:
		return hint.With(fmt.Errorf("access denied: %w; no credentials were sent: %w", err, l.failed),
			"install the credential helper that ~/.docker/config.json names, or remove it there and log in again")
	}
	return hint.With(fmt.Errorf("access denied: %w", err),
		"log in as for docker: docker login, crane auth login, or a credential helper in ~/.docker/config.json")
}

// refused reports whether a registry wants another login than it was given.
func refused(err error) bool {
	var status *transport.Error
	return errors.As(err, &status) && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden)
}
