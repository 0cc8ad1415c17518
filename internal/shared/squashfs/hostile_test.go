package squashfs

import (
	"archive/tar"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
)

// TestAttributesAreShared: an image of which many files have the same large
// attributes holds them in memory once.
func TestAttributesAreShared(t *testing.T) {
	records := map[string]string{XattrPrefix + "user.x": strings.Repeat("x", 60<<10)}
	var list tree
	for i := range 1000 {
		list.add(tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("f%04d", i), Mode: 0o644, PAXRecords: records}, nil)
	}
	f, err := os.Open(write(t, list, Options{Compression: Fast()}))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r, err := Open(f, Fast())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if held := int64(after.HeapAlloc) - int64(before.HeapAlloc); held > 10<<20 {
		t.Errorf("%d MiB are held of 1000 files with the same 60 KiB", held>>20)
	}
	if e := find(t, r.Entries, "f0999"); e.PAXRecords[XattrPrefix+"user.x"] != records[XattrPrefix+"user.x"] {
		t.Errorf("f0999 has %d attributes", len(e.PAXRecords))
	}
}

func newLoader(inodes, xattrs []byte) *loader {
	at := map[uint64]int{0: 0}
	return &loader{img: &Reader{Options: Options{Compression: Fast()}}, ids: []uint32{0},
		inodes: table{inodes, at}, xattrs: table{xattrs, at},
		seen: map[uint32]string{}, folders: map[uint64]bool{}, sets: map[uint32]map[string]string{},
		inodeBytes: len(inodes), xattrBytes: len(xattrs), nameBytes: maxNames}
}

// TestTablesThatOverlap: what an image says once can't be read over and over
// into more memory than its tables take.
func TestTablesThatOverlap(t *testing.T) {
	le := binary.LittleEndian
	symlink := func(number uint32, target string) []byte {
		b := make([]byte, 16) // kind, mode, owner, group, time, number
		le.PutUint16(b, typeSymlink)
		le.PutUint32(b[12:], number)
		b = le.AppendUint32(b, 1)
		return append(le.AppendUint32(b, uint32(len(target))), target...)
	}
	inner := symlink(2, strings.Repeat("t", 200))
	outer := symlink(1, string(inner))
	l := newLoader(outer, nil)
	if err := l.walk("a", 0); err != nil || len(l.img.Entries) != 1 || len(l.img.Entries[0].Linkname) != len(inner) {
		t.Fatalf("one link: %v, %d entries", err, len(l.img.Entries))
	}
	err := l.walk("b", uint64(len(outer)-len(inner)))
	if !errors.Is(err, errImage) || !strings.Contains(err.Error(), "overlapping inodes") {
		t.Errorf("an inode inside another: %v", err)
	}

	set := append([]byte{0, 0, 1, 0, 'a'}, le.AppendUint32(nil, 500)...) // user.a
	l = newLoader(nil, append(set, make([]byte, 500)...))
	for range 3 {
		l.xattrIDs = le.AppendUint32(le.AppendUint32(le.AppendUint64(l.xattrIDs, 0), 1), 509)
	}
	for range 2 {
		if err := l.setXattrs(&tar.Header{}, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.setXattrs(&tar.Header{}, 2); !errors.Is(err, errImage) || !strings.Contains(err.Error(), "overlapping extended attributes") {
		t.Errorf("two sets with the same bytes: %v", err)
	}
}

func TestNamesAreBounded(t *testing.T) {
	l := newLoader(make([]byte, 100), nil)
	err := l.walk(strings.Repeat("d/", maxPath/2)+"f", 0)
	if !errors.Is(err, errImage) || !strings.Contains(err.Error(), "a path of more than 4096 bytes") {
		t.Errorf("a long path: %.100v", err)
	}
	l.nameBytes = 3
	if err := l.walk("four", 0); !errors.Is(err, errImage) || !strings.Contains(err.Error(), "names take more than") {
		t.Errorf("more names than memory is for: %v", err)
	}
}
