package store

import (
	"context"
	"crypto/md5" // S3 wants it where it locks objects
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/pikelet-os/pikelet/internal/shared/backup/address"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

const (
	// partSize is that of the parts of an upload, in bytes. S3 takes 10,000 of them,
	// of 5 MiB and more (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
	partSize = 8 << 20
	maxParts = 10_000
	// retries of a request that a server did not answer, or answered with 500 or 503.
	retries = 6
)

// s3Store is a prefix in a bucket.
type s3Store struct {
	core           *minio.Core
	bucket, prefix string
	transport      *http.Transport
}

func openS3(u *url.URL, l Location) (Store, error) {
	opening := func(err error) error { return fmt.Errorf("opening the store %s: %w", u, err) }
	endpoint := l.Endpoint
	if endpoint == "" {
		endpoint = "https://s3.amazonaws.com"
	}
	e, err := url.Parse(endpoint)
	if err != nil || e.Host == "" || e.Scheme != "https" && e.Scheme != "http" || e.User != nil || strings.Trim(e.Path, "/") != "" {
		return nil, hint.With(opening(fmt.Errorf("%w: invalid endpoint", address.ErrAddress)),
			"want one such as https://s3.example or http://nas.lan:9000")
	}
	region := l.Region
	if region == "" {
		region = "us-east-1"
	}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dial, MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second,
		TLSHandshakeTimeout: dialLimit, ResponseHeaderTimeout: stallLimit, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		DisableCompression: true, // bytes are compared as they were sent
	}
	if l.CA != nil {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(l.CA) {
			return nil, opening(errors.New("the authority's certificate is not one in PEM"))
		}
		t.TLSClientConfig.RootCAs = pool
	}
	core, err := minio.NewCore(e.Host, &minio.Options{
		Creds: credentials.NewStaticV4(l.AccessKey, l.SecretKey, l.SessionToken), Secure: e.Scheme == "https", Transport: t, Region: region,
		MaxRetries: retries,
	})
	if err != nil {
		return nil, opening(err)
	}
	prefix := strings.Trim(u.Path, "/")
	if prefix != "" {
		prefix += "/"
	}
	return &s3Store{core, u.Host, prefix, t}, nil
}

// response returns what the server said, where it said anything.
func response(err error) (r minio.ErrorResponse) {
	errors.As(err, &r)
	return r
}

// s3Error marks the errors that people can do something about. What minio-go says
// has no secret in it.
func s3Error(err error) error {
	if err == nil {
		return nil
	}
	r := response(err)
	switch r.Code {
	case "NoSuchKey", "NoSuchVersion":
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case "NoSuchBucket":
		return hint.With(fmt.Errorf("%w: %w", ErrNotFound, err), "make the bucket; nodes make none")
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "InvalidTokenId", "ExpiredToken", "XAdminUserNotFound":
		return hint.With(fmt.Errorf("%w: %w", ErrDenied, err),
			"compare access key, secret key and region with the store's; may they read and write there?")
	case "RequestTimeTooSkewed":
		return hint.With(fmt.Errorf("%w: %w", ErrClock, err), "have a time server set both clocks")
	case "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "StorageFull", "InsufficientStorage":
		return hint.With(fmt.Errorf("%w: %w", ErrFull, err), "make room there, or keep fewer backups (keep)")
	case "AuthorizationHeaderMalformed":
		return hint.With(err, "set the region to the store's")
	}
	switch {
	case r.StatusCode == http.StatusInsufficientStorage:
		return hint.With(fmt.Errorf("%w: %w", ErrFull, err), "make room there, or keep fewer backups (keep)")
	case r.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w: %w", ErrDenied, err)
	case r.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if e := new(tls.CertificateVerificationError); errors.As(err, &e) {
		return hint.With(err, "name its certificate authority (ca), or correct the name in endpoint")
	}
	return err
}

// lockError is s3Error of a request that locks an object.
func lockError(err error, until time.Time) error {
	code := response(err).Code
	if !until.IsZero() && (code == "InvalidRequest" || code == "NotImplemented" || code == "ObjectLockConfigurationNotFoundError" ||
		code == "InvalidBucketObjectLockConfiguration" || strings.Contains(code, "ObjectLock")) {
		return hint.With(fmt.Errorf("%w: %w", ErrLock, err), "make a bucket with object lock, or leave lock out")
	}
	return s3Error(err)
}

func (s *s3Store) key(name string) string { return s.prefix + name }

// Put implements Store. A lock is one in compliance mode, which no account can lift.
func (s *s3Store) Put(ctx context.Context, u Upload) error {
	if err := checkName(u.Name); err != nil {
		return err
	}
	// The signature covers the digest that is given, rather than pieces of a stream,
	// which not every server reads.
	o := minio.PutObjectOptions{ContentType: "application/octet-stream", DisableContentSha256: true}
	if !u.Until.IsZero() {
		o.Mode, o.RetainUntilDate = minio.Compliance, u.Until.UTC()
	}
	var err error
	if u.Size <= partSize {
		err = s.putWhole(ctx, u, o)
	} else {
		err = s.putParts(ctx, u, o)
	}
	if err != nil {
		return fmt.Errorf("uploading %s: %w", u.Name, err)
	}
	if u.Until.IsZero() {
		return nil
	}
	// A store that does not know of locks ignores them.
	i, err := s.core.StatObject(ctx, s.bucket, s.key(u.Name), minio.StatObjectOptions{})
	if err != nil {
		return fmt.Errorf("uploading %s: %w", u.Name, s3Error(err))
	}
	until, err := time.Parse(time.RFC3339, i.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	if err != nil || until.Before(u.Until.Truncate(time.Second)) {
		return hint.With(fmt.Errorf("uploading %s: %w", u.Name, ErrLock), "make a bucket with object lock, or leave lock out")
	}
	return nil
}

// sums are the digests of a part, which the server compares: MD5 in base64, SHA-256
// in hex.
func sums(r io.Reader) (md5Sum, sha256Sum string, err error) {
	a, b := md5.New(), sha256.New()
	if _, err := io.Copy(io.MultiWriter(a, b), r); err != nil {
		return "", "", err
	}
	return base64.StdEncoding.EncodeToString(a.Sum(nil)), hex.EncodeToString(b.Sum(nil)), nil
}

func (s *s3Store) putWhole(ctx context.Context, u Upload, o minio.PutObjectOptions) error {
	r := io.NewSectionReader(u.From, 0, u.Size)
	m, h, err := sums(r)
	if err != nil {
		return err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = s.core.PutObject(ctx, s.bucket, s.key(u.Name), r, u.Size, m, h, o)
	return lockError(err, u.Until)
}

// putParts uploads part by part, and goes on with an upload that was begun: the
// server has an object once it was told that all parts are there.
func (s *s3Store) putParts(ctx context.Context, u Upload, o minio.PutObjectOptions) error {
	size := int64(partSize)
	for size*maxParts < u.Size {
		size *= 2
	}
	p, count := u.Progress, int((u.Size+size-1)/size)
	resumed := p.ID != ""
	for {
		err := s.sendParts(ctx, u, o, &p, size, count)
		if resumed && response(err).Code == "NoSuchUpload" {
			p, resumed = Progress{}, false // the server forgot it, or has given it up
			continue
		}
		return lockError(err, u.Until)
	}
}

func (s *s3Store) sendParts(ctx context.Context, u Upload, o minio.PutObjectOptions, p *Progress, size int64, count int) error {
	save := func() error {
		if u.Save == nil {
			return nil
		}
		return u.Save(*p)
	}
	if p.ID == "" {
		id, err := s.core.NewMultipartUpload(ctx, s.bucket, s.key(u.Name), o)
		if err != nil {
			return err
		}
		p.ID = id
		if err := save(); err != nil {
			return err
		}
	}
	for n := len(p.Parts); n < count; n++ {
		at := int64(n) * size
		r := io.NewSectionReader(u.From, at, min(size, u.Size-at))
		m, h, err := sums(r)
		if err != nil {
			return err
		}
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			return err
		}
		part, err := s.core.PutObjectPart(ctx, s.bucket, s.key(u.Name), p.ID, n+1, r, r.Size(),
			minio.PutObjectPartOptions{Md5Base64: m, Sha256Hex: h, DisableContentSha256: true})
		if err != nil {
			return err
		}
		p.Parts = append(p.Parts, Part{n + 1, part.ETag})
		if err := save(); err != nil {
			return err
		}
	}
	parts := make([]minio.CompletePart, count)
	for i, part := range p.Parts[:count] {
		parts[i] = minio.CompletePart{PartNumber: part.Number, ETag: part.ETag}
	}
	_, err := s.core.CompleteMultipartUpload(ctx, s.bucket, s.key(u.Name), p.ID, parts, o)
	return err
}

// Open implements Store.
func (s *s3Store) Open(ctx context.Context, name string, offset int64) (io.ReadCloser, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	var o minio.GetObjectOptions
	if offset > 0 {
		if err := o.SetRange(offset, 0); err != nil {
			return nil, err
		}
	}
	r, _, header, err := s.core.GetObject(ctx, s.bucket, s.key(name), o)
	if err != nil {
		return nil, s3Error(err)
	}
	if offset > 0 && header.Get("Content-Range") == "" {
		r.Close()
		return nil, fmt.Errorf("reading %s: the store gives it from the beginning only", name)
	}
	return r, nil
}

// Stat implements Store.
func (s *s3Store) Stat(ctx context.Context, name string) (Object, error) {
	if err := checkName(name); err != nil {
		return Object{}, err
	}
	i, err := s.core.StatObject(ctx, s.bucket, s.key(name), minio.StatObjectOptions{})
	if err != nil {
		return Object{}, s3Error(err)
	}
	o, _ := object(name, i.Size)
	return o, nil
}

// List implements Store.
func (s *s3Store) List(ctx context.Context) (list []Object, err error) {
	for i := range s.core.Client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix}) {
		if i.Err != nil {
			return nil, s3Error(i.Err)
		}
		if o, ok := object(path.Base(i.Key), i.Size); ok && i.Key == s.key(o.Name) {
			list = append(list, o)
		}
	}
	return sorted(list), nil
}

// Delete implements Store. In a bucket with versions all of them go: one that is only
// hidden takes room.
func (s *s3Store) Delete(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	key, found := s.key(name), false
	for i := range s.core.Client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: key, WithVersions: true}) {
		if response(i.Err).Code == "NotImplemented" {
			break
		}
		if i.Err != nil {
			return s3Error(i.Err)
		}
		if i.Key != key {
			continue
		}
		found = true
		if err := s.core.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{VersionID: i.VersionID}); err != nil {
			return s3Error(err)
		}
	}
	if found {
		return nil
	}
	return s3Error(s.core.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{}))
}

// Tidy implements Store.
func (s *s3Store) Tidy(ctx context.Context, node string) error {
	given := map[string]bool{}
	for i := range s.core.ListIncompleteUploads(ctx, s.bucket, s.prefix, true) {
		if i.Err != nil {
			return s3Error(i.Err)
		}
		if of, _, ok := address.ParseName(path.Base(i.Key)); ok && of == node && i.Key == s.key(path.Base(i.Key)) {
			given[i.Key] = true
		}
	}
	for key := range given {
		if err := s.core.RemoveIncompleteUpload(ctx, s.bucket, key); err != nil {
			return s3Error(err)
		}
	}
	return nil
}

// Close implements Store.
func (s *s3Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}
