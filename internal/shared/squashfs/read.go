package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Limits, so that a hostile image costs bounded memory: bytes of a decompressed
// table (an inode has about 40, and 4 for each block), files, bytes of a path
// (PATH_MAX of Linux), and bytes of all paths.
const (
	maxTable = 64 << 20
	maxFiles = 1 << 20
	maxPath  = 4096
	maxNames = 256 << 20
)

// Reader reads an image that this package wrote: with the tables where it puts
// them, and compressed as one of its Compressions.
type Reader struct {
	// Entries are the contents of the image, from its root directory on, each
	// directory's names in order, in the form that Write takes: Write reproduces
	// the image from them. Further names of a file are hard links to its first.
	// From of each regular file is set. Headers share their PAXRecords, which
	// must not be changed.
	Entries []Entry
	Options Options // of the writer of the image, except Workers
	Super   []byte  // the superblock

	r         io.ReaderAt
	fragments []fragment

	mu     sync.Mutex
	dec    *Decoder
	in     []byte
	blocks []decoded // the most recently used first
}

// decoded is a block as files have it.
type decoded struct {
	start uint64
	b     []byte
}

// keepBlocks is how many decoded blocks a Reader caches: a patch reads an old file
// at many places, mostly near the last one.
const keepBlocks = 8

// File is a regular file of an image that is read.
type File struct {
	image            *Reader
	size             int64
	start            uint64
	sizes            []uint32
	fragment, offset uint32
}

var errImage = errors.New("the squashfs is damaged")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errImage, fmt.Sprintf(format, args...))
}

// Open reads an image's tables. c is the compression that its manifest names.
func Open(r io.ReaderAt, c Compression) (*Reader, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	img := &Reader{r: r, Super: make([]byte, superblockSize), Options: Options{Compression: c}}
	s, le := img.Super, binary.LittleEndian
	if _, err := r.ReadAt(s, 0); err != nil {
		return nil, fmt.Errorf("reading a squashfs: %w", err)
	}
	if le.Uint32(s) != magic || le.Uint16(s[28:]) != 4 || le.Uint16(s[20:]) != c.id() || int(le.Uint32(s[12:])) != c.BlockSize {
		return nil, bad("want %s blocks of %d bytes", c.Name, c.BlockSize)
	}
	img.Options.Time = time.Unix(int64(le.Uint32(s[8:])), 0)
	var err error
	if img.dec, err = c.NewDecoder(); err != nil {
		return nil, err
	}
	l := &loader{img: img}
	if err := l.load(); err != nil {
		img.Close()
		return nil, err
	}
	return img, nil
}

// Close frees the reader. The underlying reader stays open.
func (img *Reader) Close() { img.dec.Close() }

// Size returns the bytes of a file.
func (f *File) Size() int64 { return f.size }

// Sizes returns the size words of a file's whole blocks.
func (f *File) Sizes() []uint32 { return f.sizes }

// HasTail reports whether a file ends in a fragment.
func (f *File) HasTail() bool { return f.fragment != noFragment }

// Reader returns a reader of all of a file.
func (f *File) Reader() *io.SectionReader { return io.NewSectionReader(f, 0, f.size) }

// Blocks returns the extents of the image with the compressed blocks and the tail
// of a file, in the order of the file; holes are left out.
func (f *File) Blocks() []Extent {
	var list []Extent
	at := int64(f.start)
	for _, s := range f.sizes {
		n, _ := Length(s)
		if n > 0 {
			list = append(list, Extent{at, int64(n)})
		}
		at += int64(n)
	}
	if f.fragment != noFragment {
		x := f.image.fragments[f.fragment]
		n, _ := Length(x.size)
		list = append(list, Extent{int64(x.start), int64(n)})
	}
	return list
}

// Extent is a run of an image's bytes.
type Extent struct{ At, Size int64 }

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	f.image.mu.Lock()
	defer f.image.mu.Unlock()
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= f.size {
			return done, io.EOF
		}
		b, inside, err := f.block(at)
		if err != nil {
			return done, err
		}
		done += copy(p[done:], b[inside:])
	}
	return done, nil
}

// block returns the block or tail of a file with the byte at an offset.
func (f *File) block(at int64) (b []byte, inside int, err error) {
	bs := int64(f.image.Options.Compression.BlockSize)
	i := int(at / bs)
	if i < len(f.sizes) {
		start := f.start
		for _, s := range f.sizes[:i] {
			n, _ := Length(s)
			start += uint64(n)
		}
		if f.sizes[i] == 0 {
			return f.image.hole(int(min(bs, f.size-int64(i)*bs))), int(at % bs), nil
		}
		b, err = f.image.decode(start, f.sizes[i])
		if want := min(bs, f.size-int64(i)*bs); err == nil && int64(len(b)) != want {
			err = bad("a block of %d bytes has %d", want, len(b))
		}
		return b, int(at % bs), err
	}
	if b, err = f.tail(); err != nil {
		return nil, 0, err
	}
	return b, int(at % bs), nil
}

// tail returns the bytes behind a file's whole blocks.
func (f *File) tail() ([]byte, error) {
	n := int(f.size % int64(f.image.Options.Compression.BlockSize))
	b, err := f.image.fragmentBytes(f.fragment)
	if err != nil {
		return nil, err
	}
	if int64(f.offset)+int64(n) > int64(len(b)) {
		return nil, bad("a tail ends behind its fragment")
	}
	return b[f.offset : int(f.offset)+n], nil
}

func (img *Reader) fragmentBytes(i uint32) ([]byte, error) {
	if int64(i) >= int64(len(img.fragments)) {
		return nil, bad("a tail is in fragment %d of %d", i, len(img.fragments))
	}
	return img.decode(img.fragments[i].start, img.fragments[i].size)
}

func (img *Reader) hole(n int) []byte {
	if n <= len(zeros) {
		return zeros[:n]
	}
	return make([]byte, n)
}

// decode returns the contents of a data block, valid until keepBlocks other blocks
// were decoded.
func (img *Reader) decode(start uint64, size uint32) ([]byte, error) {
	for i, d := range img.blocks {
		if d.start == start {
			copy(img.blocks[1:i+1], img.blocks[:i])
			img.blocks[0] = d
			return d.b, nil
		}
	}
	n, compressed := Length(size)
	if n > img.Options.Compression.BlockSize || start > 1<<62 {
		return nil, bad("a block of %d bytes", n)
	}
	var room []byte
	if len(img.blocks) == keepBlocks {
		room = img.blocks[keepBlocks-1].b[:0]
		img.blocks = img.blocks[:keepBlocks-1]
	}
	if cap(room) < img.Options.Compression.BlockSize {
		room = make([]byte, 0, img.Options.Compression.BlockSize)
	}
	if cap(img.in) < n {
		img.in = make([]byte, img.Options.Compression.BlockSize)
	}
	in := img.in[:n]
	if !compressed {
		in = room[:n]
	}
	if _, err := img.r.ReadAt(in, int64(start)); err != nil {
		return nil, fmt.Errorf("reading a squashfs at byte %d: %w", start, err)
	}
	b := in
	if compressed {
		var err error
		if b, err = img.dec.decodeTo(room, in); err != nil {
			return nil, bad("a block at byte %d: %v", start, err)
		}
	}
	img.blocks = append([]decoded{{start, b}}, img.blocks...)
	return b, nil
}

// raw returns a function that reads a block as it is stored.
func (img *Reader) raw(start uint64) func(to []byte) error {
	return func(to []byte) error {
		_, err := img.r.ReadAt(to, int64(start))
		return err
	}
}
