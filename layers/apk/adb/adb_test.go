package adb_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/internal/testing/adbtest"
	"github.com/pikelet-os/pikelet/layers/apk/adb"
)

// db returns values whose root is a word, with more behind it.
func db(t *testing.T, root uint32, more ...byte) *adb.DB {
	t.Helper()
	b := binary.LittleEndian.AppendUint32(make([]byte, 4), root)
	d, err := adb.NewDB(append(b, more...), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestNumbers(t *testing.T) {
	eight := []byte{1, 2, 3, 4, 5, 6, 7, 8}
	for _, c := range []struct {
		root uint32
		more []byte
		want uint64
		err  string
	}{
		{0, nil, 0, ""},
		{1, nil, 0, "the value 0x00000001 is not a number"}, // true
		{0x10000000, nil, 0, ""},
		{0x1fffffff, nil, 1<<28 - 1, ""},
		{0x20000008, eight, 0x04030201, ""},
		{0x20000009, eight, 0x05040302, ""}, // apk aligns, but need not
		{0x2000000d, eight, 0, "4 bytes at offset 13 are outside the block of values, which has 16"},
		{0x30000008, eight, 0x0807060504030201, ""},
		{0x30000009, eight, 0, "8 bytes at offset 9 are outside"},
		{0x2fffffff, eight, 0, "4 bytes at offset 268435455 are outside"},
		{0x80000008, eight, 0, "is not a number"},
		{0xf0000008, eight, 0, "is not a number"},
	} {
		got, err := db(t, c.root, c.more...).Root().Int()
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%#x: %d, %v, want %d, %q", c.root, got, err, c.want, c.err)
		}
	}
}

func TestBytes(t *testing.T) {
	for _, c := range []struct {
		root uint32
		more string
		want string
		err  string
	}{
		{0, "", "", ""},
		{0x80000008, "\x02abc", "ab", ""},
		{0x80000008, "\x00", "", ""},
		{0x90000008, "\x02\x00ab", "ab", ""},
		{0xa0000008, "\x02\x00\x00\x00ab", "ab", ""},
		{0x80000008, "\x03ab", "", "3 bytes at offset 9 are outside the block of values, which has 11"},
		{0x80000008, "", "", "1 bytes at offset 8 are outside"},
		{0x90000008, "\x02", "", "2 bytes at offset 8 are outside"},
		{0xa0000008, "\xff\xff\xff\xffab", "", "4294967295 bytes at offset 12 are outside"},
		{0xb0000008, "\x02ab", "", "is not a string of bytes"},
		{0x10000008, "\x02ab", "", "is not a string of bytes"},
	} {
		got, err := db(t, c.root, []byte(c.more)...).Root().Bytes()
		if string(got) != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%#x %q: %q, %v, want %q, %q", c.root, c.more, got, err, c.want, c.err)
		}
	}
}

func TestLists(t *testing.T) {
	for _, c := range []struct {
		root uint32
		more string
		want int
		err  string
	}{
		{0, "", 0, ""},
		{0xd0000008, "\x01\x00\x00\x00", 0, ""},
		{0xe0000008, "\x03\x00\x00\x00\x05\x00\x00\x10\x06\x00\x00\x10", 2, ""},
		{0xe0000008, "\x00\x00\x00\x00", 0, "the object at offset 8 has 0 slots, want 1 at least"},
		{0xe0000008, "\x03\x00\x00\x00\x05\x00\x00\x10", 0, "8 bytes at offset 12 are outside"},
		{0xe0000008, "\xff\xff\xff\xff", 0, "bytes at offset 12 are outside"},
		{0x80000008, "\x01\x00\x00\x00", 0, "is not an object or an array"},
	} {
		got, err := db(t, c.root, []byte(c.more)...).Root().List()
		if got.Len() != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%#x %q: %d, %v, want %d, %q", c.root, c.more, got.Len(), err, c.want, c.err)
		}
		if c.want == 2 {
			if n, err := got.At(2).Int(); n != 6 || err != nil || !got.At(0).IsNull() || !got.At(3).IsNull() || !got.At(-1).IsNull() {
				t.Errorf("the values of a list: %d, %v", n, err)
			}
		}
	}
}

func TestLimits(t *testing.T) {
	b := adbtest.Values(adbtest.List{strings.Repeat("x", 100), strings.Repeat("x", 100)})
	d, err := adb.NewDB(b, 250)
	if err != nil {
		t.Fatal(err)
	}
	list, err := d.Root().List()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := list.At(1).Bytes(); err != nil {
		t.Error(err)
	}
	if _, err := list.At(2).Bytes(); !errors.Is(err, adb.ErrTooMuch) {
		t.Errorf("232 bytes of strings and 24 of a list, of which 250 are allowed: %v", err)
	}
}

// TestZstdWindow: a small file takes no more memory than the largest window that
// apk uses, before anything of it is checked.
func TestZstdWindow(t *testing.T) {
	for _, c := range []struct {
		window int
		err    error
	}{{128 << 20, nil}, {256 << 20, zstd.ErrWindowSizeExceeded}} {
		b := bytes.NewBufferString("ADBc\x02\x16")
		z, err := zstd.NewWriter(b, zstd.WithWindowSize(c.window), zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		z.Write(adbtest.File(adbtest.None, "pckg", adbtest.Block(0, adbtest.Values(nil))))
		if err := z.Flush(); err != nil { // a frame that does not know its size
			t.Fatal(err)
		}
		z.Write([]byte("more"))
		z.Close()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s, err := adb.Open(bytes.NewReader(b.Bytes()))
		if err == nil {
			s.Close()
		}
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, c.err) || took > 160<<20 {
			t.Errorf("a window of %d MiB: %v, and %d MiB of memory", c.window>>20, err, took>>20)
		} else {
			t.Logf("a window of %d MiB: %v, and %d MiB of memory", c.window>>20, err, took>>20)
		}
	}
}

func FuzzStream(f *testing.F) {
	p := adbtest.Package("name a\nversion 1\ndir d 755 root root\nfile d/f 644 root root 0 hello")
	for _, c := range []adbtest.Compression{adbtest.None, adbtest.Deflate, adbtest.DeflateLevel, adbtest.Zstd} {
		f.Add(adbtest.Signed(c, "pckg", p.Values, nil, p.Data...))
	}
	f.Add(adbtest.File(adbtest.None, "indx", adbtest.LongBlock(0, p.Values), adbtest.LongBlock(2, nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := adb.Open(bytes.NewReader(b))
		if err != nil {
			return
		}
		defer s.Close()
		for blocks := 0; ; blocks++ {
			if err = s.Next(); err != nil || blocks > 1000 {
				break
			}
			if blocks%2 == 0 { // the others are passed over
				if got, err := s.ReadAll(1 << 20); err == nil && int64(len(got)) != s.Size {
					t.Fatalf("%d bytes of a block of %d", len(got), s.Size)
				}
			}
		}
		if err == io.EOF && s.Kind > adb.Data {
			t.Fatalf("a block of kind %d", s.Kind)
		}
	})
}
