package fetch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// errGivenUp is a download that broke off too often in a row.
var errGivenUp = errors.New("given up")

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

// download reads a file from a server. Where it breaks off, it goes on from
// there, as a registry's blobs do: registry.Tries times in a row without a byte.
type download struct {
	c       *Cache
	ctx     context.Context
	url     string
	at      int64  // bytes that were read
	size    int64  // -1: the server does not say
	version string // the server's name for this version of the file; "" for none
	body    io.ReadCloser
	failed  int
}

// download opens a file on a server.
func (c *Cache) download(ctx context.Context, url string) (*download, error) {
	d := &download{c: c, ctx: ctx, url: url, size: -1}
	for d.body == nil {
		if err := d.open(); err != nil {
			if err = d.again(err); err != nil {
				return nil, err
			}
		}
	}
	return d, nil
}

// Read implements io.Reader.
func (d *download) Read(b []byte) (int, error) {
	for {
		var n int
		var err error
		if d.body == nil {
			err = d.open()
		} else {
			n, err = d.body.Read(b)
		}
		if n > 0 {
			d.at, d.failed = d.at+int64(n), 0
			return n, nil
		}
		if errors.Is(err, io.EOF) {
			if d.size < 0 || d.at >= d.size {
				return 0, io.EOF
			}
			err = fmt.Errorf("it ended after %d of %d bytes: %w", d.at, d.size, io.ErrUnexpectedEOF)
		}
		if err == nil {
			continue
		}
		if err = d.again(err); err != nil {
			return 0, err
		}
	}
}

// again waits before the next try, or returns why there is none.
func (d *download) again(err error) error {
	d.Close()
	var status *statusError
	var final permanent
	switch {
	case d.ctx.Err() != nil:
		return d.ctx.Err()
	case errors.As(err, &final), errors.As(err, &status) && !registry.RetryStatus(status.code):
		return err
	case d.at == 0 && status == nil && !registry.Temporary(err):
		return err
	}
	if d.failed++; d.failed == registry.Tries {
		return fmt.Errorf("%w after %d tries: %w", errGivenUp, registry.Tries, err)
	}
	return registry.Wait(d.ctx, d.c.Backoff, d.failed)
}

// Close implements io.Closer.
func (d *download) Close() error {
	if d.body == nil {
		return nil
	}
	err := d.body.Close()
	d.body = nil
	return err
}

// open asks for the file, from where it broke off.
func (d *download) open() error {
	if host, has := hasLogin(d.url); has {
		return permanent{fmt.Errorf(errLogin, host)}
	}
	req, err := http.NewRequestWithContext(d.ctx, http.MethodGet, d.url, nil)
	if err != nil {
		return permanent{err}
	}
	// A mirror may call a .gz file gzip-encoded; and what is compressed on its
	// way cannot be gone on with in the middle.
	req.Header.Set("Accept-Encoding", "identity")
	login, known := d.c.Logins.find(req.URL)
	if known {
		req.SetBasicAuth(login.User, login.Password)
	}
	if d.at > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.at))
		if d.version != "" {
			req.Header.Set("If-Range", d.version)
		}
	}
	resp, err := d.c.Client.Do(req)
	if err != nil {
		return err
	}
	if err := d.accept(resp, known); err != nil {
		resp.Body.Close()
		return err
	}
	d.body = resp.Body
	return nil
}

// accept looks at an answer, and takes its body to where the download is.
func (d *download) accept(resp *http.Response, loggedIn bool) error {
	version := resp.Header.Get("ETag")
	if version == "" || strings.HasPrefix(version, "W/") { // a weak one does not vouch for bytes
		version = resp.Header.Get("Last-Modified")
	}
	changed := permanent{fmt.Errorf("downloading %s: it changed while it was downloaded; run this again", d.url)}
	switch code := resp.StatusCode; {
	case d.at > 0 && code == http.StatusPartialContent:
		var first, last, total int64
		n, _ := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &total)
		if n < 2 || first != d.at {
			return permanent{fmt.Errorf("downloading %s: the server sent another part of it than was asked for", d.url)}
		}
		if n == 3 && d.size >= 0 && total != d.size || version != "" && version != d.version {
			return changed
		}
		return nil
	case d.at > 0 && code == http.StatusOK:
		// It does not know Range, or is another of several servers, which name one
		// file differently: all of it comes again. Whoever reads it checks it.
		if resp.ContentLength != d.size {
			return changed
		}
		_, err := io.CopyN(io.Discard, resp.Body, d.at)
		return err
	case code == http.StatusOK:
		d.size, d.version = resp.ContentLength, version
		return nil
	case code == http.StatusNotFound, code == http.StatusGone:
		return permanent{fmt.Errorf("the server answered %s: %w", resp.Status, &Missing{What: d.url})}
	}
	text := fmt.Sprintf("downloading %s: the server answered %s", d.url, resp.Status)
	switch code := resp.StatusCode; {
	case (code == http.StatusUnauthorized || code == http.StatusForbidden) && loggedIn:
		text += "; it does not take the login that ~/.netrc, or the file that $NETRC names, has for it"
	case code == http.StatusUnauthorized:
		text += "; if it wants a login, put a line into ~/.netrc, or the file that $NETRC names: " +
			"machine " + resp.Request.URL.Hostname() + " login USER password PASSWORD"
	}
	return &statusError{resp.StatusCode, text}
}

// notHTML returns a reader of the same bytes, or an error where they are a web
// page: that of a captive portal or a proxy, in place of a file that is none.
func notHTML(r io.ReadCloser, url string) (io.ReadCloser, error) {
	b := bufio.NewReader(r)
	head, err := b.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		r.Close()
		return nil, fmt.Errorf("reading %s: %w", url, err)
	}
	if strings.HasPrefix(http.DetectContentType(head), "text/html") {
		r.Close()
		return nil, fmt.Errorf("reading %s: the server sent a web page (HTML); "+
			"look at it in a browser: a captive portal or a proxy may want a login", url)
	}
	return struct {
		io.Reader
		io.Closer
	}{b, r}, nil
}
