package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Volume is a FAT32 volume open for reading.
type Volume struct {
	geometry
	r io.ReaderAt
}

// Entry is one name in a directory.
type Entry struct {
	Name  string
	Size  int64
	IsDir bool
	first uint32
}

// Extent is a run of bytes of the volume.
type Extent struct{ Offset, Size int64 }

// maxDirectory bounds the size of a directory, in bytes: 65536 entries, the maximum
// of the format.
const maxDirectory = 65536 * entrySize

// tableAhead is how much of the table is read at once, in bytes, for a contiguous
// chain.
const tableAhead = 64 << 10

// Open reads the boot sector of a volume that begins at r's offset 0.
func Open(r io.ReaderAt) (*Volume, error) {
	s := make([]byte, sectorSize)
	if _, err := r.ReadAt(s, 0); err != nil {
		return nil, fmt.Errorf("reading a FAT32 boot sector: %w", err)
	}
	g, err := decodeGeometry(s)
	if err != nil {
		return nil, err
	}
	return &Volume{geometry: g, r: r}, nil
}

// VolumeID returns the volume's serial number.
func (v *Volume) VolumeID() uint32 { return v.volumeID }

// chain returns the runs of clusters from first on: enough for size bytes, or up to
// the end of the chain if size is negative. A broken chain, such as a loop, is an
// error.
func (v *Volume) chain(first uint32, size int64) ([]Extent, error) {
	var runs []Extent
	left := size
	limit := int64(v.clusters())
	if size < 0 {
		left = maxDirectory
	}
	buf := make([]byte, tableAhead)
	at, end := int64(-1), int64(-1) // the table offsets that buf holds
	for c := first; left > 0; limit-- {
		if c < 2 || c >= v.clusters()+2 || limit == 0 {
			return nil, fmt.Errorf("the chain of clusters from %d on is broken at %d", first, c)
		}
		n := min(left, v.clusterSize())
		if last := len(runs) - 1; last >= 0 && runs[last].Offset+runs[last].Size == v.offset(c) {
			runs[last].Size += n
		} else {
			runs = append(runs, Extent{v.offset(c), n})
		}
		left -= n
		if left == 0 && size >= 0 {
			break
		}
		entry := int64(c) * 4
		if entry < at || entry+4 > end {
			// Reading ahead pays for contiguous chains only. A fragmented chain,
			// which Write never makes, costs a sector for each step.
			want := int64(sectorSize)
			if entry == end {
				want = tableAhead
			}
			at = entry &^ (sectorSize - 1)
			end = min(at+want, int64(v.fatSectors)*sectorSize)
			if _, err := v.r.ReadAt(buf[:end-at], int64(v.reserved)*sectorSize+at); err != nil {
				return nil, fmt.Errorf("reading the FAT: %w", err)
			}
		}
		c = binary.LittleEndian.Uint32(buf[entry-at:]) & 0x0fffffff
		if c >= 0x0ffffff8 {
			if size >= 0 && left > 0 {
				return nil, fmt.Errorf("the chain of clusters from %d on ends %d bytes early", first, left)
			}
			break
		}
	}
	return runs, nil
}

func (v *Volume) read(runs []Extent) ([]byte, error) {
	var b []byte
	for _, x := range runs {
		part := make([]byte, x.Size)
		if _, err := v.r.ReadAt(part, x.Offset); err != nil {
			return nil, err
		}
		b = append(b, part...)
	}
	return b, nil
}

// ReadDir returns the entries of a directory; "" is the root.
func (v *Volume) ReadDir(name string) ([]Entry, error) {
	first := v.rootDir
	if name != "" && name != "." {
		e, err := v.Stat(name)
		if err != nil {
			return nil, err
		}
		if !e.IsDir {
			return nil, fmt.Errorf("%q is not a directory", name)
		}
		first = e.first
	}
	return v.readDir(first)
}

func (v *Volume) readDir(first uint32) ([]Entry, error) {
	runs, err := v.chain(first, -1)
	if err != nil {
		return nil, err
	}
	b, err := v.read(runs)
	if err != nil {
		return nil, fmt.Errorf("reading a directory: %w", err)
	}
	var list []Entry
	var long longName
	for ; len(b) >= entrySize && b[0] != 0; b = b[entrySize:] {
		e := b[:entrySize]
		switch {
		case e[0] == 0xe5:
			long = longName{}
		case e[11]&0x3f == attrLongName:
			long.add(e)
		case e[11]&attrVolume != 0 || e[0] == '.':
			long = longName{}
		default:
			list = append(list, Entry{
				Name:  long.name(e),
				Size:  int64(binary.LittleEndian.Uint32(e[28:])),
				IsDir: e[11]&attrDir != 0,
				first: uint32(binary.LittleEndian.Uint16(e[20:]))<<16 | uint32(binary.LittleEndian.Uint16(e[26:])),
			})
			long = longName{}
		}
	}
	return list, nil
}

// NotFoundError reports that a volume has no such file.
type NotFoundError struct{ Name string }

func (e *NotFoundError) Error() string { return fmt.Sprintf("no file %q on this volume", e.Name) }

// Stat finds a name, ignoring case. It returns a *NotFoundError if there is none.
func (v *Volume) Stat(name string) (Entry, error) {
	at := Entry{IsDir: true, first: v.rootDir}
	for _, part := range strings.Split(strings.Trim(name, "/"), "/") {
		if !at.IsDir {
			return Entry{}, &NotFoundError{name}
		}
		list, err := v.readDir(at.first)
		if err != nil {
			return Entry{}, err
		}
		found := false
		for _, e := range list {
			if strings.EqualFold(e.Name, part) {
				at, found = e, true
				break
			}
		}
		if !found {
			return Entry{}, &NotFoundError{name}
		}
	}
	return at, nil
}

// Extents returns the size of a file of at most limit bytes, and the runs of
// bytes it lies in, as offsets from the volume's start. The chain of a larger
// file is not followed: any volume can claim 4 GiB for a file.
func (v *Volume) Extents(name string, limit int64) (int64, []Extent, error) {
	e, err := v.Stat(name)
	if err != nil {
		return 0, nil, err
	}
	if e.IsDir {
		return 0, nil, fmt.Errorf("%q is a directory", name)
	}
	if e.Size > limit {
		return 0, nil, fmt.Errorf("%q has %d bytes, want at most %d", name, e.Size, limit)
	}
	if e.Size == 0 {
		return 0, nil, nil
	}
	runs, err := v.chain(e.first, e.Size)
	if err != nil {
		return 0, nil, fmt.Errorf("finding %q: %w", name, err)
	}
	return e.Size, runs, nil
}

// ReadFile returns the contents of a file of at most limit bytes.
func (v *Volume) ReadFile(name string, limit int64) ([]byte, error) {
	_, runs, err := v.Extents(name, limit)
	if err != nil {
		return nil, err
	}
	b, err := v.read(runs)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", name, err)
	}
	return b, nil
}

// OpenFile returns a reader over a file of at most limit bytes, and its size.
func (v *Volume) OpenFile(name string, limit int64) (io.Reader, int64, error) {
	size, runs, err := v.Extents(name, limit)
	if err != nil {
		return nil, 0, err
	}
	parts := make([]io.Reader, len(runs))
	for i, x := range runs {
		parts[i] = io.NewSectionReader(v.r, x.Offset, x.Size)
	}
	return io.MultiReader(parts...), size, nil
}

// OpenAt returns a file of at most limit bytes for reading at any offset, and
// its size.
func (v *Volume) OpenAt(name string, limit int64) (io.ReaderAt, int64, error) {
	size, runs, err := v.Extents(name, limit)
	if err != nil {
		return nil, 0, err
	}
	return &extents{v.r, runs, size}, size, nil
}

// extents is a file in several runs.
type extents struct {
	r    io.ReaderAt
	runs []Extent
	size int64
}

// ReadAt implements io.ReaderAt.
func (e *extents) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	done := 0
	for _, x := range e.runs {
		if done == len(p) {
			break
		}
		if off >= x.Size {
			off -= x.Size
			continue
		}
		part := p[done:min(int64(len(p)), int64(done)+x.Size-off)]
		n, err := e.r.ReadAt(part, x.Offset+off)
		if done += n; n < len(part) {
			return done, err
		}
		off = 0
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}
