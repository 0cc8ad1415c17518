package store

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/pikelet-os/pikelet/internal/shared/backup/address"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

const secretKey = "secret-of-tests"

// startS3 starts a server of S3 that make built, and returns where.
func startS3(t *testing.T, args ...string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("it needs a server of S3")
	}
	program, err := filepath.Abs("../../../../build/tools/s3")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close()
	cmd := exec.Command(program, append(args, "-listen", host)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; make build/tools/s3 builds it", err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 200 {
		if c, err := net.Dial("tcp", host); err == nil {
			c.Close()
			return host
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("the server of S3 does not answer: %s", said.Bytes())
	return ""
}

func locationOf(host, bucket string) Location {
	return Location{Address: "s3://" + bucket + "/homes/a", Endpoint: "http://" + host, AccessKey: "access", SecretKey: secretKey}
}

// openBucket makes a bucket, and opens it.
func openBucket(t *testing.T, l Location, locks bool) *s3Store {
	t.Helper()
	opened, err := Open(context.Background(), l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Close() })
	s := opened.(*s3Store)
	if err := s.core.MakeBucket(context.Background(), s.bucket, minio.MakeBucketOptions{ObjectLocking: locks}); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestS3 has two servers judge: versitygw and gofakes3.
func TestS3(t *testing.T) {
	for name, args := range map[string][]string{"versitygw": {"-dir", t.TempDir()}, "gofakes3": nil} {
		t.Run(name, func(t *testing.T) {
			s := openBucket(t, locationOf(startS3(t, args...), "backups"), false)
			checkStore(t, s, func(name string) {
				_, err := s.core.PutObject(context.Background(), s.bucket, s.key(name), strings.NewReader("x"), 1, "", "", minio.PutObjectOptions{})
				if err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// TestS3Locks: what is locked stays, whoever deletes it, and a store that cannot lock
// says so.
func TestS3Locks(t *testing.T) {
	host, ctx := startS3(t, "-dir", t.TempDir()), context.Background()
	s := openBucket(t, locationOf(host, "locking"), true)
	for _, size := range []int{1000, partSize + 1} {
		name, b := address.NameOf("attic", made.Add(time.Duration(size)*time.Second)), bytesOf(size)
		u := uploadOf(name, b)
		u.Until = time.Now().Add(time.Hour)
		if err := s.Put(ctx, u); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(ctx, name); err == nil {
			t.Errorf("%s of %d bytes was deleted while it is locked", name, size)
		}
		if err := Verify(ctx, s, name, u.Size, image.DigestOf(b)); err != nil {
			t.Error(err)
		}
	}
	plain := openBucket(t, locationOf(host, "plain"), false)
	u := uploadOf(address.NameOf("attic", made), []byte("x"))
	u.Until = time.Now().Add(time.Hour)
	if err := plain.Put(ctx, u); !errors.Is(err, ErrLock) {
		t.Errorf("got error %v, want %v", err, ErrLock)
	}
}

// TestS3SilentAboutLocks: a store that takes a lock and forgets it is found out.
func TestS3SilentAboutLocks(t *testing.T) {
	host := faulty(t, startS3(t), func(w http.ResponseWriter, r *http.Request, h http.Handler) {
		r.Header.Del("X-Amz-Object-Lock-Mode")
		r.Header.Del("X-Amz-Object-Lock-Retain-Until-Date")
		h.ServeHTTP(w, r)
	})
	s := openBucket(t, locationOf(host, "backups"), false)
	u := uploadOf(address.NameOf("attic", made), []byte("x"))
	u.Until = time.Now().Add(time.Hour)
	if err := s.Put(context.Background(), u); !errors.Is(err, ErrLock) {
		t.Errorf("got error %v, want %v", err, ErrLock)
	}
}

// faulty is a proxy before a server of S3, with its faults.
func faulty(t *testing.T, host string, fault func(w http.ResponseWriter, r *http.Request, behind http.Handler)) string {
	t.Helper()
	behind := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: host})
			r.Out.Host = r.In.Host
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fault(w, r, behind) }))
	t.Cleanup(p.Close)
	return p.Listener.Addr().String()
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, code)
}

// TestS3Refusals: what a person can do something about is told apart, and no secret
// is in it.
func TestS3Refusals(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		want   error
	}{
		{http.StatusForbidden, "RequestTimeTooSkewed", ErrClock}, {http.StatusForbidden, "SignatureDoesNotMatch", ErrDenied},
		{http.StatusForbidden, "AccessDenied", ErrDenied}, {http.StatusForbidden, "Other", ErrDenied},
		{http.StatusInsufficientStorage, "Other", ErrFull}, {http.StatusForbidden, "QuotaExceeded", ErrFull},
		{http.StatusBadRequest, "XMinioStorageFull", ErrFull}, {http.StatusNotFound, "NoSuchBucket", ErrNotFound},
	} {
		host := faulty(t, "", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { refuse(w, c.status, c.code) })
		s, err := Open(context.Background(), locationOf(host, "backups"))
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{1000, partSize + 1} {
			err := s.Put(context.Background(), uploadOf(address.NameOf("attic", made), bytesOf(size)))
			if !errors.Is(err, c.want) || strings.Contains(fmt.Sprint(err, hint.Of(err)), secretKey) {
				t.Errorf("%s, %d bytes: got error %v, want %v", c.code, size, err, c.want)
			}
		}
		s.Close()
	}
}

// TestS3WrongSecret asks a real server with credentials of others.
func TestS3WrongSecret(t *testing.T) {
	l := locationOf(startS3(t, "-dir", t.TempDir()), "backups")
	openBucket(t, l, false)
	for _, change := range []func(*Location){func(l *Location) { l.SecretKey = "another" }, func(l *Location) { l.AccessKey = "another" }} {
		l := l
		change(&l)
		s, err := Open(context.Background(), l)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Put(context.Background(), uploadOf(address.NameOf("attic", made), []byte("x"))); !errors.Is(err, ErrDenied) {
			t.Errorf("got error %v, want %v", err, ErrDenied)
		}
		if _, err := s.List(context.Background()); !errors.Is(err, ErrDenied) {
			t.Errorf("got error %v, want %v", err, ErrDenied)
		}
		s.Close()
	}
}

// TestS3Trouble: answers of 500, connections that break off in the midst of a part,
// and slow ones cost time and nothing else.
func TestS3Trouble(t *testing.T) {
	behind := startS3(t, "-dir", t.TempDir())
	var n atomic.Int64
	host := faulty(t, behind, func(w http.ResponseWriter, r *http.Request, h http.Handler) {
		switch n.Add(1) % 4 {
		case 0:
			refuse(w, http.StatusInternalServerError, "InternalError")
		case 1:
			if r.Method == http.MethodPut {
				io.CopyN(io.Discard, r.Body, 100_000)
				panic(http.ErrAbortHandler)
			}
			h.ServeHTTP(w, r)
		default:
			h.ServeHTTP(w, r)
		}
	})
	openBucket(t, locationOf(behind, "backups"), false)
	s, err := Open(context.Background(), locationOf(host, "backups"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b, name := bytesOf(4*partSize+5), address.NameOf("attic", made)
	if err := s.Put(context.Background(), uploadOf(name, b)); err != nil {
		t.Fatal(err)
	}
	if err := Verify(context.Background(), s, name, int64(len(b)), image.DigestOf(b)); err != nil {
		t.Error(err)
	}
}

// TestS3GoesOn: an upload that was given up after some parts has no name, and the
// next one sends the other parts only, unless the server forgot it.
func TestS3GoesOn(t *testing.T) {
	behind, ctx := startS3(t, "-dir", t.TempDir()), context.Background()
	direct := openBucket(t, locationOf(behind, "backups"), false)
	var parts, refuseFrom atomic.Int64
	host := faulty(t, behind, func(w http.ResponseWriter, r *http.Request, h http.Handler) {
		if r.URL.Query().Has("partNumber") && parts.Add(1) > refuseFrom.Load() {
			refuse(w, http.StatusInsufficientStorage, "InsufficientStorage")
			return
		}
		h.ServeHTTP(w, r)
	})
	s, err := Open(ctx, locationOf(host, "backups"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b, name := bytesOf(5*partSize), address.NameOf("attic", made)
	saved := []byte("{}")
	put := func(limit int64) error {
		parts.Store(0)
		refuseFrom.Store(limit)
		u := uploadOf(name, b)
		if err := json.Unmarshal(saved, &u.Progress); err != nil {
			t.Fatal(err)
		}
		u.Save = func(p Progress) (err error) { saved, err = json.Marshal(p); return err }
		return s.Put(ctx, u)
	}
	if err := put(3); !errors.Is(err, ErrFull) {
		t.Fatalf("got error %v, want %v", err, ErrFull)
	}
	if _, err := s.Stat(ctx, name); !errors.Is(err, ErrNotFound) {
		t.Errorf("what is not whole has a name: %v", err)
	}
	if list, err := s.List(ctx); err != nil || len(list) > 0 {
		t.Errorf("got %v, %v", list, err)
	}
	if err := put(100); err != nil || parts.Load() != 2 {
		t.Errorf("got %d parts, want 2: %v", parts.Load(), err)
	}
	if err := Verify(ctx, s, name, int64(len(b)), image.DigestOf(b)); err != nil {
		t.Error(err)
	}
	name, saved = address.NameOf("attic", made.Add(time.Hour)), []byte("{}")
	if err := put(3); !errors.Is(err, ErrFull) {
		t.Fatalf("got error %v, want %v", err, ErrFull)
	}
	if err := direct.Tidy(ctx, "cellar"); err != nil {
		t.Error(err)
	}
	if got := incomplete(t, direct); !slices.Equal(got, []string{direct.key(name)}) {
		t.Errorf("uploads of another node are given up: %q", got)
	}
	if err := direct.Tidy(ctx, "attic"); err != nil || len(incomplete(t, direct)) > 0 {
		t.Errorf("%q stay behind: %v", incomplete(t, direct), err)
	}
	if err := put(100); err != nil || parts.Load() < 5 {
		t.Errorf("the server forgot the upload: got %d parts, %v", parts.Load(), err)
	}
}

func incomplete(t *testing.T, s *s3Store) (keys []string) {
	t.Helper()
	for i := range s.core.ListIncompleteUploads(context.Background(), s.bucket, "", true) {
		if i.Err != nil {
			t.Fatal(i.Err)
		}
		keys = append(keys, i.Key)
	}
	return keys
}

// TestS3ChangedOnTheWay: a server compares what it gets with its digests; what it
// changes later is found when it is read back.
func TestS3ChangedOnTheWay(t *testing.T) {
	behind, ctx := startS3(t, "-dir", t.TempDir()), context.Background()
	direct := openBucket(t, locationOf(behind, "backups"), false)
	b, name := bytesOf(1000), address.NameOf("attic", made)
	host := faulty(t, behind, func(w http.ResponseWriter, r *http.Request, h http.Handler) {
		if r.Method == http.MethodPut {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			body[len(body)/2] ^= 1
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		h.ServeHTTP(w, r)
	})
	s, err := Open(ctx, locationOf(host, "backups"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Put(ctx, uploadOf(name, b)); err == nil {
		t.Error("bytes that were changed on the way are kept")
	}
	if err := direct.Put(ctx, uploadOf(name, b[:999])); err != nil {
		t.Fatal(err)
	}
	if err := Verify(ctx, s, name, 1000, image.DigestOf(b)); !errors.Is(err, ErrDiffers) {
		t.Errorf("got error %v, want %v", err, ErrDiffers)
	}
}

// TestS3TLS: a certificate of an unknown authority is refused.
func TestS3TLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, "NoSuchBucket")
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	l := locationOf("", "backups")
	l.Endpoint = server.URL
	list := func(l Location) error {
		t.Helper()
		s, err := Open(context.Background(), l)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		_, err = s.List(context.Background())
		return err
	}
	if err := list(l); err == nil || errors.Is(err, ErrNotFound) || !strings.Contains(fmt.Sprint(hint.Of(err)), "authority") {
		t.Errorf("an unknown authority is trusted: %v", err)
	}
	l.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := list(l); !errors.Is(err, ErrNotFound) {
		t.Errorf("got error %v, want %v", err, ErrNotFound)
	}
}
