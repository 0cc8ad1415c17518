package registry

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Errors of registries that do not store what they are sent.
var (
	// ErrTypeRefused is returned for a manifest that a registry refuses by what it
	// is.
	ErrTypeRefused = errors.New("the registry refuses manifests of this type")
	// ErrTagRefused is returned for a tag that a registry does not let be written
	// again, or at all.
	ErrTagRefused = errors.New("the registry does not let this tag be written")
)

// explainPut names in an error of sending a manifest what the registry has against
// it, and adds what helps. The error is ErrTypeRefused or ErrTagRefused for answers
// that mean that.
func explainPut(err error, ref string, b []byte) error {
	var status *transport.Error
	if !errors.As(err, &status) {
		return err
	}
	switch {
	case !strings.HasPrefix(ref, "sha256:") && tagRefused(status):
		err = fmt.Errorf("%w: %w", ErrTagRefused, err)
		if isCosignTag(ref) {
			return hint.With(err, "exempt tags that begin with sha256- from the registry's immutable tags: signatures are added to them")
		}
		return hint.Withf(err, "exempt the tag %s from the registry's immutable tags, or take another tag", ref)
	case typeRefused(status):
		d := referrerOf(b)
		err = fmt.Errorf("%w: artifact type %q: %w", ErrTypeRefused, d.ArtifactType, err)
		return hint.Withf(err, "allow the artifact type %s in the registry's configuration, "+
			"or take a registry that stores any OCI artifact", d.ArtifactType)
	}
	return err
}

// tagRefused reports whether an answer is one about a tag: ECR's TAG_INVALID
// (https://github.com/moby/buildkit/issues/3776), Harbor's 412
// (https://github.com/goharbor/harbor/issues/17332), and others that call it
// immutable.
func tagRefused(status *transport.Error) bool {
	immutable := func(d transport.Diagnostic) bool {
		return d.Code == "TAG_INVALID" || strings.Contains(strings.ToLower(d.Message+fmt.Sprint(d.Detail)), "immutab")
	}
	return status.StatusCode == http.StatusPreconditionFailed || status.StatusCode == http.StatusConflict ||
		status.StatusCode < http.StatusInternalServerError && slices.ContainsFunc(status.Errors, immutable)
}

// typeRefused reports whether an answer is one about the type of a manifest: of
// Quay (https://github.com/oras-project/oras/issues/738), of GitLab
// (https://github.com/ocx-sh/ocx/issues/480), and of those that do not know the
// media type.
func typeRefused(status *transport.Error) bool {
	about := func(d transport.Diagnostic) bool {
		return d.Code == transport.ManifestInvalidErrorCode || d.Code == transport.UnsupportedErrorCode
	}
	switch status.StatusCode {
	case http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusUnsupportedMediaType:
		return true
	case http.StatusBadRequest, http.StatusNotFound, http.StatusUnprocessableEntity:
		return slices.ContainsFunc(status.Errors, about)
	}
	return false
}

// RefusesBundles returns why signatures in cosign 3's form are not in the
// repository, though they were to be written: its registry takes no such manifests
// (ErrTypeRefused). It is nil where it takes them, or none was written.
func (r *Remote) RefusesBundles() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.noBundles
}

// toleratesBundles notes that a registry refused a bundle, and reports whether the
// classic form has to do.
func toleratesBundles(to Target, err error) bool {
	r, ok := to.(*Remote)
	if !ok || !errors.Is(err, ErrTypeRefused) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noBundles = err
	return true
}
