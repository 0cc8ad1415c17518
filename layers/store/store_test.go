package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
)

func newFile(t *testing.T, limit int64) *File {
	t.Helper()
	pool, err := NewPool(3, squashfs.Fast())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	f, err := pool.Temp(t.TempDir(), NewBudget(limit))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Wait(); f.Close() })
	return f
}

// samples are contents of many shapes: none, short, whole blocks, noise, holes.
func samples() [][]byte {
	rnd := rand.New(rand.NewSource(3))
	const block = 256 << 10
	var list [][]byte
	for _, n := range []int{0, 1, 5000, block - 1, block, block + 1, 3*block + 77} {
		noise := make([]byte, n)
		rnd.Read(noise)
		list = append(list, noise, bytes.Repeat([]byte("text "), n/5), make([]byte, n))
	}
	return append(list, append(make([]byte, 2*block), "end"...))
}

// TestContentsRoundTrip puts everything at once from several goroutines.
func TestContentsRoundTrip(t *testing.T) {
	f := newFile(t, 1<<30)
	list := samples()
	got := make([]*Content, len(list))
	var group sync.WaitGroup
	for i, b := range list {
		group.Go(func() {
			c, err := f.Put(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Error(err)
			}
			got[i] = c
		})
	}
	group.Wait()
	for i, b := range list {
		c := got[i]
		r, err := c.Open() // may be before its blocks are done
		if err != nil {
			t.Fatal(err)
		}
		back, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(back, b) {
			t.Errorf("content %d of %d bytes: %d bytes came back, %v", i, len(b), len(back), err)
		}
		at := c.OpenAt()
		for _, from := range []int{len(b) / 2, 0, len(b) - 1, len(b), len(b) - 300<<10} {
			part := make([]byte, 300<<10)
			want := b[min(max(from, 0), len(b)):]
			n, err := at.ReadAt(part, int64(max(from, 0)))
			want = want[:min(len(want), len(part))]
			if !bytes.Equal(part[:n], want) || (err == nil) != (n == len(part)) || err != nil && err != io.EOF {
				t.Errorf("content %d of %d bytes: %d bytes from %d, want %d, %v", i, len(b), n, from, len(want), err)
			}
		}
		if _, err := at.ReadAt(make([]byte, 1), -1); err == nil {
			t.Error("a negative offset is read")
		}
		at.Close()
		whole := len(b) / (256 << 10) * (256 << 10)
		if c.Sum != sha256.Sum256(b) || c.Head != sha256.Sum256(b[:whole]) {
			t.Errorf("content %d of %d bytes: its hashes are not those of its bytes", i, len(b))
		}
	}
	if err := f.Wait(); err != nil {
		t.Error(err)
	}
}

// TestHolesAreNotStored keeps a file on disk that is nearly all hole.
func TestHolesAreNotStored(t *testing.T) {
	name := filepath.Join(t.TempDir(), "sparse")
	if err := os.WriteFile(name, []byte("begin"), 0o600); err != nil {
		t.Fatal(err)
	}
	const size = 64<<20 + 5
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	r, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f := newFile(t, 1<<30)
	c, err := f.Put(r, size)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Wait(); err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	h.Write([]byte("begin"))
	squashfs.WriteZeros(h, size-5)
	if !bytes.Equal(h.Sum(nil), c.Sum[:]) || f.Size() > 4096 {
		t.Errorf("64 MiB of hole take %d bytes, sum %x, want %x", f.Size(), c.Sum, h.Sum(nil))
	}
}

func TestPutRefuses(t *testing.T) {
	for what, c := range map[string]struct {
		size int64
		want string
	}{
		"less than announced": {11, "unexpected EOF"},
		"more than announced": {9, "more than the 9 bytes"},
		"more than a root":    {5000, "more slots can hold"},
	} {
		want := strings.Replace(c.want, "more slots", "more than its slots", 1)
		f := newFile(t, 4096)
		if _, err := f.Put(strings.NewReader("ten bytes."), c.size); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
}

// TestBudget: a size that is refused leaves the count as it was, however large
// it is, and what fits is still taken.
func TestBudget(t *testing.T) {
	f := newFile(t, 1<<20)
	for _, size := range []int64{math.MaxInt64, math.MaxInt64, 1<<20 + 1, -1} {
		if _, err := f.Put(bytes.NewReader(nil), size); err == nil {
			t.Fatalf("%d bytes were taken into a budget of 1 MiB", size)
		}
	}
	list := []*Content{{Size: 1 << 19}, {Size: 1 << 20}}
	if err := f.Adopt(list); err == nil {
		t.Error("more than the budget was adopted")
	}
	if _, err := f.Put(bytes.NewReader(make([]byte, 1<<20)), 1<<20); err != nil {
		t.Errorf("1 MiB after what was refused: %v", err)
	}
	for _, n := range []int64{-1, math.MaxInt64, 512<<20 + 1} {
		if err := f.TakeHeader(n); err == nil {
			t.Errorf("a header of %d bytes was taken", n)
		}
	}
	if err := f.TakeHeader(512 << 20); err != nil {
		t.Errorf("headers of all that is allowed: %v", err)
	}
}

// TestDamagedBlocksAreFound changes every part of what is kept: no reader gets other bytes
// than were put.
func TestDamagedBlocksAreFound(t *testing.T) {
	f := newFile(t, 1<<30)
	b := bytes.Repeat([]byte("what is kept for years rots. "), 30_000)
	c, err := f.Put(bytes.NewReader(b), int64(len(b)))
	if err != nil || f.Wait() != nil {
		t.Fatal(err)
	}
	for at := int64(0); at < f.Size(); at += f.Size() / 50 {
		kept := make([]byte, 1)
		f.f.ReadAt(kept, at)
		f.f.WriteAt([]byte{kept[0] ^ 0x40}, at)
		r, _ := c.Open()
		if _, err := io.ReadAll(r); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("byte %d changed: %v, want ErrCorrupt", at, err)
		}
		f.f.WriteAt(kept, at)
	}
	r, _ := c.Open()
	if back, err := io.ReadAll(r); err != nil || !bytes.Equal(back, b) {
		t.Errorf("changed back: %v", err)
	}
}

// TestWriteErrors: a full disk is an error for who puts, waits and reads.
func TestWriteErrors(t *testing.T) {
	f := newFile(t, 1<<30)
	f.f.Close()
	noise := make([]byte, 1<<20)
	rand.New(rand.NewSource(4)).Read(noise)
	c, err := f.Put(bytes.NewReader(noise), int64(len(noise)))
	if err != nil {
		t.Fatalf("blocks fail later, not at once: %v", err)
	}
	if err := f.Wait(); err == nil {
		t.Error("nothing could be written, and Wait says nothing")
	}
	if err := c.ReadBlock(0, make([]byte, 10)); err == nil {
		t.Error("a block that was not written was read")
	}
	if _, err := f.Put(strings.NewReader("x"), 1); err == nil {
		t.Error("nothing could be written, and Put says nothing")
	}
}

func BenchmarkPut(b *testing.B) {
	pool, err := NewPool(2, squashfs.Fast())
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	data := []byte(strings.Repeat(fmt.Sprint(rand.Int()), 1<<20))[:16<<20]
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		f, err := pool.Temp(b.TempDir(), NewBudget(1<<40))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := f.Put(bytes.NewReader(data), int64(len(data))); err != nil {
			b.Fatal(err)
		}
		f.Wait()
		f.Close()
	}
}
