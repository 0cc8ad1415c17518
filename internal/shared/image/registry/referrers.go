package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// referrersAPI is what is known of a repository's referrers API, which came with
// version 1.1 of OCI's distribution spec. A registry that has it lists what
// refers to a manifest by itself. For one without it, clients write the list
// under a tag. What such registries answer differs (404, 405, 406, 501, pages of
// HTML), so the one answer that counts is the API's own: 200 with an index.
type referrersAPI struct {
	mu     sync.Mutex
	known  bool
	there  bool
	failed error // the temporary error that it was found missing by; nil for an answer that stays
}

// referrersTag is the tag of a manifest's list of referrers.
func referrersTag(digest string) string { return strings.Replace(digest, ":", "-", 1) }

// page is a part of a list of referrers, and the address of the next part; ""
// for none.
type page struct {
	list  []image.Descriptor
	bytes int
	next  string
}

// errNoList is an answer that is no list of referrers.
var errNoList = errors.New("the registry's answer is no list of referrers")

// Referrers implements Place: maxListed at most, what the API lists and then what
// is listed under the tag. Some registries have an API that does not list what came
// before it, or anything (TestRegistriesPeopleHave names them). Where the API fails
// for a while and there is no list under a tag either, its error is returned: what
// refers to the manifest is unknown then, and not nothing.
func (r *Remote) Referrers(ctx context.Context, digest string) ([]image.Descriptor, error) {
	var list []image.Descriptor
	first, err := r.firstPage(ctx, digest)
	if err != nil {
		return nil, err
	}
	if first != nil {
		if list, err = r.pages(ctx, first); err != nil {
			return nil, err
		}
	}
	b, err := r.referrersIndex(ctx, digest)
	if errors.Is(err, fs.ErrNotExist) {
		if first == nil && r.referrers.failed != nil {
			return nil, fmt.Errorf("%w: %w", errUnknownReferrers, r.referrers.failed)
		}
		return list, nil
	}
	if err != nil {
		return nil, err
	}
	i, err := image.DecodeIndex(b)
	if err != nil {
		return nil, fmt.Errorf("%s: reading the list of referrers %s: %w", r, referrersTag(digest), err)
	}
	for _, d := range i.Manifests {
		if len(list) < maxListed && !lists(list, d.Digest) {
			list = append(list, d)
		}
	}
	return list, nil
}

// errUnknownReferrers is returned where the referrers API fails for a while, and
// there is no list under a tag.
var errUnknownReferrers = errors.New("the referrers API fails, and no tag lists referrers")

// lists reports whether a digest is in a list.
func lists(list []image.Descriptor, digest string) bool {
	return slices.ContainsFunc(list, func(d image.Descriptor) bool { return d.Digest == digest })
}

// firstPage asks the referrers API. It returns nil where the registry has none.
func (r *Remote) firstPage(ctx context.Context, digest string) (*page, error) {
	r.referrers.mu.Lock()
	defer r.referrers.mu.Unlock()
	if r.referrers.known && !r.referrers.there {
		return nil, nil
	}
	p, err := r.page(ctx, r.url("referrers/"+digest), image.MaxOCI)
	if r.referrers.known || err != nil && !absent(err) {
		return p, err
	}
	r.referrers.known, r.referrers.there = true, err == nil
	var status *transport.Error
	if errors.As(err, &status) && RetryStatus(status.StatusCode) {
		r.referrers.failed = err
	}
	return p, nil
}

// absent reports whether an answer to the API's question is one of a registry
// that does not have it. Refusals are not: they want a login, or patience.
func absent(err error) bool {
	var status *transport.Error
	if errors.As(err, &status) {
		refusals := []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooManyRequests}
		return !slices.Contains(refusals, status.StatusCode)
	}
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNoList)
}

// page reads a page of a list of referrers, of limit bytes at most.
func (r *Remote) page(ctx context.Context, address string, limit int) (*page, error) {
	resp, err := r.ask(ctx, address, image.MediaOCIIndex, "")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	if err != nil {
		return nil, r.explain(err)
	}
	// The spec wants the index's media type in the header; some send a general one.
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if media != image.MediaOCIIndex && image.Describe(b).MediaType != image.MediaOCIIndex {
		return nil, fmt.Errorf("%s: %w: it is %q", r, errNoList, media)
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%s: the list of referrers has more than %d bytes", r, image.MaxOCI)
	}
	i, err := image.DecodeIndex(b)
	if err != nil {
		return nil, fmt.Errorf("%s: reading the list of referrers: %w", r, err)
	}
	next, err := nextPage(resp)
	if err != nil {
		return nil, fmt.Errorf("%s: reading the list of referrers: %w", r, err)
	}
	return &page{i.Manifests, len(b), next}, nil
}

// nextPage returns the address that a page names as the next one (RFC 8288); ""
// for none. One on another host is an error: the login would go there.
func nextPage(resp *http.Response) (string, error) {
	for _, link := range resp.Header.Values("Link") {
		target, params, ok := strings.Cut(link, ">")
		target, begins := strings.CutPrefix(strings.TrimSpace(target), "<")
		if !ok || !begins || !strings.Contains(strings.ReplaceAll(params, `"`, ""), "rel=next") {
			continue
		}
		u, err := url.Parse(target)
		if err != nil {
			return "", fmt.Errorf("the link to the next page: %w", err)
		}
		u = resp.Request.URL.ResolveReference(u)
		if u.Host != resp.Request.URL.Host || u.Scheme != resp.Request.URL.Scheme {
			return "", fmt.Errorf("the next page is on another host, %s", u.Host)
		}
		return u.String(), nil
	}
	return "", nil
}

// pages reads the pages behind the first one: maxListed of them at most, and
// image.MaxOCI bytes together.
func (r *Remote) pages(ctx context.Context, p *page) ([]image.Descriptor, error) {
	list, left := p.list, image.MaxOCI-p.bytes
	for n := 1; p.next != "" && n < maxListed && len(list) < maxListed; n++ {
		var err error
		if p, err = r.page(ctx, p.next, left); err != nil {
			return nil, err
		}
		list, left = append(list, p.list...), left-p.bytes
	}
	return list[:min(len(list), maxListed)], nil
}

// referrersIndex reads the list under the tag of a registry without the API.
func (r *Remote) referrersIndex(ctx context.Context, digest string) ([]byte, error) {
	d, b, err := r.Manifest(ctx, referrersTag(digest))
	// GitLab takes sha256-HEX for a digest, and answers with the manifest itself
	// (https://github.com/oras-project/oras-go/issues/1396).
	if err == nil && d.Digest == digest {
		return nil, fmt.Errorf("%s: %s: %w", r, referrersTag(digest), fs.ErrNotExist)
	}
	if err == nil && d.MediaType != image.MediaOCIIndex {
		err = fmt.Errorf("%s: the tag %s is a %q; want the index of referrers", r, referrersTag(digest), d.MediaType)
	}
	return b, err
}

// referrerOf returns the entry for a manifest in a list of referrers.
func referrerOf(b []byte) image.Descriptor {
	d := image.Describe(b)
	var m struct {
		Config      image.Descriptor  `json:"config"`
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(b, &m) == nil {
		d.Annotations = m.Annotations
		if d.ArtifactType == "" {
			d.ArtifactType = m.Config.MediaType
		}
	}
	return d
}

// PutReferrers implements Target. What the registry lists by itself it need not be
// told; everything else is written into the list under the tag. What others wrote
// there stays as it is. Two clients that add to one list at the same time may lose
// an entry, as registries compare nothing; publishing again adds it.
func (r *Remote) PutReferrers(ctx context.Context, digest string, list []image.Descriptor) error {
	there, err := r.Referrers(ctx, digest)
	if err != nil && !errors.Is(err, errUnknownReferrers) { // which a list under a tag makes known
		return err
	}
	var missing []image.Descriptor
	for _, d := range list {
		if !lists(there, d.Digest) {
			missing = append(missing, d)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	old, err := r.referrersIndex(ctx, digest)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	now, err := withReferrers(old, missing)
	if err != nil {
		return err
	}
	if err := r.send(ctx, referrersTag(digest), image.MediaOCIIndex, now); err != nil {
		return fmt.Errorf("writing the list of referrers: %w", err)
	}
	return nil
}

// withReferrers returns a list of referrers with more. Fields it does not know
// stay.
func withReferrers(list []byte, more []image.Descriptor) ([]byte, error) {
	index := map[string]json.RawMessage{
		"schemaVersion": json.RawMessage("2"), "mediaType": json.RawMessage(`"` + image.MediaOCIIndex + `"`),
	}
	var entries []json.RawMessage
	if list != nil {
		if err := json.Unmarshal(list, &index); err != nil {
			return nil, fmt.Errorf("reading the list of referrers: %w", err)
		}
		if err := json.Unmarshal(index["manifests"], &entries); err != nil {
			return nil, fmt.Errorf("reading the list of referrers: %w", err)
		}
	}
	for _, d := range more {
		entry, err := json.Marshal(d)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	var err error
	if index["manifests"], err = json.Marshal(entries); err != nil {
		return nil, err
	}
	b, err := json.Marshal(index)
	if len(b) > image.MaxOCI {
		return nil, fmt.Errorf("the list of referrers would have %d bytes; want at most %d", len(b), image.MaxOCI)
	}
	return b, err
}
