package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/backup/address"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

var made = time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC)

// bytesOf returns bytes that look encrypted, always the same of a size.
func bytesOf(size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func uploadOf(name string, b []byte) Upload {
	return Upload{Name: name, From: bytes.NewReader(b), Size: int64(len(b))}
}

// checkStore is what every store does. other returns the names of all that lies
// there, those that are no backups of ours too, and add adds such a file.
func checkStore(t *testing.T, s Store, add func(name string)) {
	t.Helper()
	ctx := context.Background()
	small, large := bytesOf(1000), bytesOf(partSize*2+12345)
	first, second := address.NameOf("attic", made), address.NameOf("attic", made.Add(time.Hour))
	add("notes.txt")
	add("attic-20261130T030000Z.backup.old")
	for name, b := range map[string][]byte{first: small, second: large} {
		if _, err := s.Stat(ctx, name); !errors.Is(err, ErrNotFound) {
			t.Errorf("before it is kept: got error %v, want %v", err, ErrNotFound)
		}
		if err := s.Put(ctx, uploadOf(name, b)); err != nil {
			t.Fatal(err)
		}
		if err := Verify(ctx, s, name, int64(len(b)), image.DigestOf(b)); err != nil {
			t.Error(err)
		}
		if err := Verify(ctx, s, name, int64(len(b)), image.DigestOf(b[1:])); !errors.Is(err, ErrDiffers) {
			t.Errorf("got error %v, want %v", err, ErrDiffers)
		}
		if err := Verify(ctx, s, name, int64(len(b))-1, image.DigestOf(b[1:])); !errors.Is(err, ErrDiffers) {
			t.Errorf("got error %v, want %v", err, ErrDiffers)
		}
	}
	list, err := s.List(ctx)
	if err != nil || len(list) != 2 || list[0] != (Object{first, 1000, "attic", made}) || list[1].Name != second {
		t.Errorf("got %+v, %v", list, err)
	}
	r, err := s.Open(ctx, second, 7_000_000)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, large[7_000_000:]) {
		t.Errorf("from the middle on: got %d bytes, %v", len(got), err)
	}
	for _, name := range []string{"../x", "notes.txt", ""} {
		if err := s.Delete(ctx, name); err == nil {
			t.Errorf("%q can be deleted", name)
		}
		if _, err := s.Open(ctx, name, 0); err == nil {
			t.Errorf("%q can be read", name)
		}
		if err := s.Put(ctx, uploadOf(name, small)); err == nil {
			t.Errorf("%q can be written", name)
		}
	}
	if err := s.Tidy(ctx, "attic"); err != nil {
		t.Error(err)
	}
	deleted, err := Prune(ctx, s, Keep{Last: 1}, "attic", second, 0, made)
	if err != nil || !slices.Equal(deleted, []string{first}) {
		t.Errorf("deleted %q, %v", deleted, err)
	}
	if _, err := s.Open(ctx, first, 0); !errors.Is(err, ErrNotFound) {
		t.Errorf("after it was deleted: got error %v, want %v", err, ErrNotFound)
	}
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(context.Background(), Location{Address: dir})
	if err != nil {
		t.Fatal(err)
	}
	add := func(name string) {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	checkStore(t, s, add)
	part := "." + address.NameOf("attic", made) + ".part"
	add(part)
	add("." + address.NameOf("cellar", made) + ".part")
	if err := s.Tidy(context.Background(), "attic"); err != nil || slices.Contains(files(t, dir), part) || len(files(t, dir)) != 4 {
		t.Errorf("got %q, %v", files(t, dir), err)
	}
	if err := s.Put(context.Background(), Upload{Name: address.NameOf("a", made), Until: made}); !errors.Is(err, ErrLock) {
		t.Errorf("got error %v, want %v", err, ErrLock)
	}
	if _, err := Open(context.Background(), Location{Address: dir + "/none"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got error %v, want %v", err, ErrNotFound)
	}
}

// broken is a source that ends with an error.
type broken struct{ whole []byte }

func (b broken) ReadAt(p []byte, at int64) (int, error) {
	if at+int64(len(p)) > int64(len(b.whole))/2 {
		return 0, errors.New("broken")
	}
	return copy(p, b.whole[at:]), nil
}

// TestDirectoryHasNoPart: what could not be written whole has no name.
func TestDirectoryHasNoPart(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(context.Background(), Location{Address: dir})
	if err != nil {
		t.Fatal(err)
	}
	b := bytesOf(1 << 20)
	if err := s.Put(context.Background(), Upload{Name: address.NameOf("attic", made), From: broken{b}, Size: int64(len(b))}); err == nil {
		t.Error("a source that breaks off is kept")
	}
	if got := files(t, dir); len(got) > 0 {
		t.Errorf("%q stay behind", got)
	}
	if st, err := os.Stat("/dev/full"); err == nil && st.Mode()&os.ModeDevice != 0 {
		if err := os.Symlink("/dev/full", filepath.Join(dir, "."+address.NameOf("attic", made)+".part")); err != nil {
			t.Fatal(err)
		}
		if err := s.Put(context.Background(), uploadOf(address.NameOf("attic", made), b)); !errors.Is(err, ErrFull) {
			t.Errorf("got error %v, want %v", err, ErrFull)
		}
	}
}

// TestKeep: what is kept, of 100 backups, one each 6 hours.
func TestKeep(t *testing.T) {
	var list []Object
	for n := range 100 {
		at := made.Add(time.Duration(n) * 6 * time.Hour)
		for _, node := range []string{"attic", "cellar"} {
			list = append(list, Object{Name: address.NameOf(node, at), Node: node, Made: at})
		}
	}
	kept := func(k Keep, good string) (names []string) {
		gone := k.Superfluous(list, "attic", good)
		for _, o := range list {
			if o.Node == "attic" && !slices.Contains(gone, o.Name) {
				names = append(names, o.Made.Format("01-02T15"))
			}
		}
		for _, name := range gone {
			if !strings.HasPrefix(name, "attic-") {
				t.Errorf("%s is of another node", name)
			}
		}
		return names
	}
	for _, c := range []struct {
		keep Keep
		good string
		want string
	}{
		{Keep{Last: 2}, "", "[12-24T15 12-24T21]"},
		{Keep{Daily: 3}, "", "[12-22T21 12-23T21 12-24T21]"},
		{Keep{Weekly: 2}, "", "[12-20T21 12-24T21]"},
		{Keep{Monthly: 5}, "", "[11-30T21 12-24T21]"},
		{Keep{Last: 2, Daily: 2, Weekly: 2, Monthly: 2}, "", "[11-30T21 12-20T21 12-23T21 12-24T15 12-24T21]"},
		{Keep{Last: 1}, list[0].Name, "[11-30T03 12-24T21]"},
	} {
		if got := fmt.Sprint(kept(c.keep, c.good)); got != c.want {
			t.Errorf("%+v: got %s, want %s", c.keep, got, c.want)
		}
	}
	if got := kept(Keep{}, ""); len(got) != 100 {
		t.Errorf("without a rule %d are kept, want 100", len(got))
	}
}

// TestLockedAreLeft: what is locked is not tried.
func TestLockedAreLeft(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(context.Background(), Location{Address: dir})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 5 {
		name := address.NameOf("attic", made.Add(time.Duration(n)*24*time.Hour))
		if err := s.Put(context.Background(), uploadOf(name, []byte("x"))); err != nil {
			t.Fatal(err)
		}
	}
	now := made.Add(4 * 24 * time.Hour)
	deleted, err := Prune(context.Background(), s, Keep{Last: 1}, "attic", "", 49*time.Hour, now)
	if err != nil || !slices.Equal(deleted, []string{address.NameOf("attic", made), address.NameOf("attic", made.Add(24*time.Hour))}) {
		t.Errorf("deleted %q, %v", deleted, err)
	}
}

// flaky breaks off after some bytes, each time it is opened.
type flaky struct {
	Store
	after  int64
	opened int
}

func (f *flaky) Open(ctx context.Context, name string, offset int64) (io.ReadCloser, error) {
	f.opened++
	r, err := f.Store.Open(ctx, name, offset)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(r, f.after), r}, nil
}

// TestReadingGoesOn: a connection that breaks off costs no byte twice.
func TestReadingGoesOn(t *testing.T) {
	s, err := Open(context.Background(), Location{Address: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	b, name := bytesOf(1000), address.NameOf("attic", made)
	if err := s.Put(context.Background(), uploadOf(name, b)); err != nil {
		t.Fatal(err)
	}
	f := &flaky{Store: s, after: 300}
	o, err := f.Stat(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(NewReader(context.Background(), f, o, 0))
	if err != nil || !bytes.Equal(got, b) || f.opened != 4 {
		t.Errorf("got %d bytes in %d pieces, %v", len(got), f.opened, err)
	}
}
