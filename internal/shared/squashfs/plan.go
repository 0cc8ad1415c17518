package squashfs

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// Packed is the contents of a file whose whole blocks were compressed by an Encoder
// of the image's Compression.
type Packed interface {
	Sums() (all, head [sha256.Size]byte) // of the contents, and of their whole blocks
	Sizes() []uint32                     // size words of the whole blocks
	ReadBlock(i int, to []byte) error    // the stored block; to has the length that its size word says
	ReadTail(to []byte) error            // the bytes behind the whole blocks
}

// Fragments caches compressed fragments across builds, by their contents. It is
// used by several goroutines.
type Fragments interface {
	// Fragment returns the size word of a key's fragment and a function that
	// reads it. A missing fragment is made and cached.
	Fragment(key [sha256.Size]byte, encode func() ([]byte, uint32, error)) (size uint32, read func(to []byte) error, err error)
}

// Image is an image that is laid out completely.
type Image struct {
	Size   int64
	head   []byte // the superblock
	pieces []piece
	tables []byte // everything behind the data
}

// piece is a block of the data.
type piece struct {
	size int
	read func(to []byte) error
}

// Plan lays out the image of entries, whose files are all Packed: it
// compresses tails and tables, and copies nothing. The bytes are the same as
// Write's. keep may be nil.
func Plan(entries []Entry, keep Fragments, o Options) (*Image, error) {
	root, err := begin(entries, &o)
	if err != nil {
		return nil, err
	}
	if keep == nil {
		keep = noFragments{}
	}
	p := &planner{dataWriter: newDataWriter(o), keep: keep}
	img := &Image{}
	at := int64(superblockSize)
	err = p.run(func() error {
		err := root.files(func(n *node) error {
			if n.Packed == nil {
				return packing(n, errors.New("not packed"))
			}
			p.file(n)
			return nil
		})
		p.flush()
		return err
	}, func(j *job) error {
		n, _ := Length(j.size)
		j.put(uint64(at), j.size)
		if at += int64(n); n == 0 {
			return nil
		}
		img.pieces = append(img.pieces, piece{n, j.read})
		return nil
	})
	if err != nil {
		return nil, err
	}
	tables := &memory{base: at}
	out := &output{w: tables, at: at}
	if img.head, err = writeTables(out, root, p.fragments, o); err != nil {
		return nil, err
	}
	img.tables, img.Size = tables.b, out.at
	return img, nil
}

// WriteTo writes the image in one go, from its first byte to its last.
func (img *Image) WriteTo(w io.Writer) (int64, error) {
	buf := make([]byte, 1<<20)
	out := &counted{w: w}
	if err := out.write(img.head); err != nil {
		return out.n, err
	}
	for _, p := range img.pieces {
		if err := p.read(buf[:p.size]); err != nil {
			return out.n, err
		}
		if err := out.write(buf[:p.size]); err != nil {
			return out.n, err
		}
	}
	return out.n, out.write(img.tables)
}

type counted struct {
	w io.Writer
	n int64
}

func (c *counted) write(b []byte) error {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return err
}

// memory is a buffer that begins at offset base.
type memory struct {
	base int64
	b    []byte
}

// WriteAt appends: tables are written in order.
func (m *memory) WriteAt(p []byte, at int64) (int, error) {
	if at != m.base+int64(len(m.b)) {
		return 0, fmt.Errorf("writing tables at %d, and %d comes next", at, m.base+int64(len(m.b)))
	}
	m.b = append(m.b, p...)
	return len(p), nil
}

// planner lays out files that are packed.
type planner struct {
	*dataWriter
	keep  Fragments
	tails []tail // of the fragment being filled
}

type tail struct {
	file Packed
	n    int
	path string
}

func (p *planner) file(n *node) {
	n.data = &fileData{run: noRun, fragment: noFragment}
	if n.Size == 0 {
		return
	}
	all, head := n.Packed.Sums()
	if same := p.bySum[all]; same != nil {
		n.data = same
		return
	}
	p.bySum[all] = n.data
	sizes := n.Packed.Sizes()
	if shared := p.byHead[head]; len(sizes) > 0 && shared != nil {
		n.data.run = shared
	} else if len(sizes) > 0 {
		var put func(int) func(uint64, uint32)
		n.data.run, put = newRun(len(sizes))
		p.byHead[head] = n.data.run
		for i, size := range sizes {
			p.send(&job{size: size, put: put(i), read: func(to []byte) error { return n.Packed.ReadBlock(i, to) }})
		}
	}
	if left := int(n.Size % int64(p.o.Compression.BlockSize)); left > 0 {
		p.place(n, left, p.flush)
		p.tails = append(p.tails, tail{n.Packed, left, n.path()})
	}
}

// flush sends the fragment being filled.
func (p *planner) flush() {
	if len(p.tails) == 0 {
		return
	}
	tails := p.tails
	p.tails = nil
	j := &job{put: p.newFragment()}
	j.work = func(enc *Encoder) {
		j.size, j.read, j.err = p.keep.Fragment(fragmentKey(tails, p.o.Compression), func() ([]byte, uint32, error) {
			var in []byte
			for _, t := range tails {
				at := len(in)
				in = append(in, make([]byte, t.n)...)
				if err := t.file.ReadTail(in[at:]); err != nil {
					return nil, 0, fmt.Errorf("packing %q: %w", t.path, err)
				}
			}
			return enc.encode(in, nil)
		})
	}
	p.send(j)
}

// fragmentKey names the bytes of a fragment and how they are compressed.
func fragmentKey(tails []tail, c Compression) (key sum) {
	h := sha256.New()
	fmt.Fprintf(h, "fragment %d %s\n", Generation, c.Name)
	for _, t := range tails {
		all, _ := t.file.Sums()
		fmt.Fprintf(h, "%x %d\n", all, t.n)
	}
	h.Sum(key[:0])
	return key
}

type noFragments struct{}

func (noFragments) Fragment(_ [sha256.Size]byte, encode func() ([]byte, uint32, error)) (uint32, func([]byte) error, error) {
	b, size, err := encode()
	return size, func(to []byte) error { copy(to, b); return nil }, err
}
