package fetch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// permanent is a failure that another try does not mend.
type permanent struct{ error }

// Unwrap returns the failure itself.
func (p permanent) Unwrap() error { return p.error }

// statusError is an answer other than the file.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return e.text }

// download asks a server for a file.
type download struct {
	c       *Cache
	url     string
	size    int64  // -1: the server does not say
	version string // the server's name for this version of the file; "" for none
}

// download opens a file on a server. A download that breaks off goes on where it
// was, as that of a registry's blob does.
func (c *Cache) download(ctx context.Context, url string) (io.ReadCloser, error) {
	d := &download{c: c, url: url, size: -1}
	r := registry.Stream{Open: d.open, Final: final, Backoff: c.Backoff}.From(ctx, 0)
	return r, r.Open()
}

// final is registry.Stream.Final of a mirror's files.
func final(err error, at int64) bool {
	var status *statusError
	var never permanent
	switch {
	case errors.As(err, &never):
		return true
	case errors.As(err, &status):
		return !registry.RetryStatus(status.code)
	}
	return at == 0 && !registry.Temporary(err)
}

// open asks for the file, from an offset on.
func (d *download) open(ctx context.Context, at int64) (io.ReadCloser, int64, error) {
	if host, has := hasLogin(d.url); has {
		return nil, 0, permanent{loginInAddress(host)}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url, nil)
	if err != nil {
		return nil, 0, permanent{err}
	}
	// A mirror may call a .gz file gzip-encoded; and what is compressed on its
	// way cannot be gone on with in the middle.
	req.Header.Set("Accept-Encoding", "identity")
	login, known := d.c.Logins.find(req.URL)
	if known {
		req.SetBasicAuth(login.User, login.Password)
	}
	if at > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", at))
		if d.version != "" {
			req.Header.Set("If-Range", d.version)
		}
	}
	resp, err := d.c.Client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	if err := d.accept(resp, at, known); err != nil {
		resp.Body.Close()
		return nil, 0, err
	}
	return resp.Body, d.size, nil
}

// accept looks at an answer, and takes its body to where the download is.
func (d *download) accept(resp *http.Response, at int64, loggedIn bool) error {
	version := resp.Header.Get("ETag")
	if version == "" || strings.HasPrefix(version, "W/") { // a weak one does not vouch for bytes
		version = resp.Header.Get("Last-Modified")
	}
	changed := permanent{hint.With(fmt.Errorf("downloading %s: the file changed during the download", d.url), "run this again")}
	switch code := resp.StatusCode; {
	case at > 0 && code == http.StatusPartialContent:
		var first, last, total int64
		n, _ := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &total)
		if n < 2 || first != at {
			return permanent{fmt.Errorf("downloading %s: the server sent another range than was asked for", d.url)}
		}
		if n == 3 && d.size >= 0 && total != d.size || version != "" && version != d.version {
			return changed
		}
		return nil
	case at > 0 && code == http.StatusOK:
		// It does not know Range, or is another of several servers, which name one
		// file differently: all of it comes again. Whoever reads it checks it.
		if resp.ContentLength != d.size {
			return changed
		}
		_, err := io.CopyN(io.Discard, resp.Body, at)
		return err
	case code == http.StatusOK:
		d.size, d.version = resp.ContentLength, version
		return nil
	case code == http.StatusNotFound, code == http.StatusGone:
		return permanent{fmt.Errorf("the server answered %s: %w", resp.Status, &Missing{What: d.url})}
	}
	err := &statusError{resp.StatusCode, fmt.Sprintf("downloading %s: the server answered %s", d.url, resp.Status)}
	switch code := resp.StatusCode; {
	case (code == http.StatusUnauthorized || code == http.StatusForbidden) && loggedIn:
		return hint.With(err, "the server refuses the login in ~/.netrc, or in the file that $NETRC names: correct it")
	case code == http.StatusUnauthorized:
		return hint.With(err, "if the server wants a login, "+fmt.Sprintf(netrcAdvice, resp.Request.URL.Hostname()))
	}
	return err
}

// notHTML returns a reader of the same bytes, or an error where they are a web
// page, as a captive portal or a proxy sends in place of the file.
func notHTML(r io.ReadCloser, url string) (io.ReadCloser, error) {
	b := bufio.NewReader(r)
	head, err := b.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		r.Close()
		return nil, fmt.Errorf("reading %s: %w", url, err)
	}
	if strings.HasPrefix(http.DetectContentType(head), "text/html") {
		r.Close()
		return nil, hint.With(fmt.Errorf("reading %s: the server sent a web page (HTML)", url),
			"look at it in a browser: a captive portal or a proxy may want a login")
	}
	return struct {
		io.Reader
		io.Closer
	}{b, r}, nil
}
