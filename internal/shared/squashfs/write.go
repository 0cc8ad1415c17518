package squashfs

import (
	"crypto/sha256"
	"fmt"
	"io"
)

// Write writes the image of entries to w and returns its size in bytes, a
// multiple of 4096. Parents must come before their children; missing parents and
// duplicate names are errors. Every file is read once, except files that begin like
// another one with as many blocks. The first 96 bytes are written last.
func Write(w io.WriterAt, entries []Entry, o Options) (int64, error) {
	root, err := begin(entries, &o)
	if err != nil {
		return 0, err
	}
	out := &output{w: w, at: superblockSize}
	d := &direct{dataWriter: newDataWriter(o)}
	if err := d.writeAll(root, out); err != nil {
		return 0, err
	}
	s, err := writeTables(out, root, d.fragments, o)
	if err != nil {
		return 0, err
	}
	_, err = w.WriteAt(s, 0)
	return out.at, err
}

// direct is the source that packs files as they are read.
type direct struct {
	*dataWriter
	tail  []byte // the fragment being filled
	whole source // the fragment of another image with the same bytes so far
	free  chan []byte
	twins map[*node]bool // large files that may be the same as another
	sizes map[int64]int  // how many small files have a size
}

func (d *direct) writeAll(root *node, out *output) error {
	d.free = make(chan []byte, 16*d.o.Workers+8)
	if err := d.findTwins(root); err != nil {
		return err
	}
	err := d.run(func() error {
		err := root.files(func(n *node) error {
			if err := d.file(n); err != nil {
				return packing(n, err)
			}
			return nil
		})
		d.flush()
		return err
	}, func(j *job) error {
		start := uint64(out.at)
		if j.read != nil {
			n, _ := Length(j.size)
			j.out = d.buffer()[:n]
			j.free = func() { d.recycle(j.out) }
			if err := j.read(j.out); err != nil {
				return err
			}
		}
		if _, err := out.Write(j.out); err != nil {
			return fmt.Errorf("writing squashfs: %w", err)
		}
		j.put(start, j.size)
		return nil
	})
	return err
}

// twinPrefix is how much of large files is compared before they are hashed, in
// bytes.
const twinPrefix = 4 << 10

// findTwins finds the files that may share blocks with another: those with as
// many whole blocks that begin with the same bytes.
func (d *direct) findTwins(root *node) error {
	d.twins, d.sizes = map[*node]bool{}, map[int64]int{}
	same := map[int64][]*node{} // by their whole blocks
	root.files(func(n *node) error {
		if blocks := n.Size / int64(d.o.Compression.BlockSize); blocks > 0 {
			same[blocks] = append(same[blocks], n)
		} else {
			d.sizes[n.Size]++
		}
		return nil
	})
	for _, list := range same {
		if len(list) < 2 {
			continue
		}
		heads := map[string]*node{}
		for _, n := range list {
			head, err := n.head()
			if err != nil {
				return packing(n, err)
			}
			if other := heads[head]; other != nil {
				d.twins[other], d.twins[n] = true, true
			}
			heads[head] = n
		}
	}
	return nil
}

// head returns the first bytes of a file.
func (n *node) head() (string, error) {
	r, err := n.Open()
	if err != nil {
		return "", err
	}
	defer r.Close()
	b := make([]byte, min(twinPrefix, n.Size))
	if _, err := io.ReadFull(r, b); err != nil {
		return "", fmt.Errorf("reading %d bytes: %w", n.Size, noEOF(err))
	}
	return string(b), nil
}

// sums hashes a file, and its whole blocks.
func (n *node) sums(blockSize int, buf []byte) (all, head sum, err error) {
	r, err := n.Open()
	if err != nil {
		return all, head, err
	}
	defer r.Close()
	h := sha256.New()
	left := n.Size / int64(blockSize)
	for b := NewBlockReader(r, n.Size, blockSize); ; left-- {
		if left == 0 {
			h.Sum(head[:0])
		}
		size, hole, err := b.Next(buf)
		if err != nil {
			return all, head, err
		}
		if size == 0 {
			h.Sum(all[:0])
			return all, head, nil
		}
		if hole {
			WriteZeros(h, size)
		} else {
			h.Write(buf[:size])
		}
	}
}

// file sends the whole blocks of a file to the workers and keeps its tail for a
// fragment.
func (d *direct) file(n *node) error {
	n.data = &fileData{run: noRun, fragment: noFragment}
	if n.Size == 0 {
		return nil
	}
	blockSize := d.o.Compression.BlockSize
	blocks, tail := int(n.Size/int64(blockSize)), int(n.Size%int64(blockSize))
	var head sum
	if d.twins[n] {
		buf := d.buffer()
		all, h, err := n.sums(blockSize, buf)
		d.recycle(buf)
		if err != nil {
			return err
		}
		if same := d.bySum[all]; same != nil {
			n.data = same
			return nil
		}
		d.bySum[all], head = n.data, h
	}
	if n.From != nil {
		return d.copy(n, head, blocks, tail)
	}
	r, err := n.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	b := NewBlockReader(r, n.Size, blockSize)
	if shared := d.byHead[head]; shared != nil && d.twins[n] {
		n.data.run = shared
		for range blocks { // only the tail is wanted
			if err := b.skip(d); err != nil {
				return err
			}
		}
	} else if blocks > 0 {
		var put func(int) func(uint64, uint32)
		n.data.run, put = newRun(blocks)
		if d.twins[n] {
			d.byHead[head] = n.data.run
		}
		for i := range blocks {
			buf := d.buffer()
			_, hole, err := b.Next(buf)
			if err != nil {
				return err
			}
			d.sendBlock(i, buf, hole, put(i))
		}
	}
	if tail > 0 {
		buf := d.buffer()
		defer d.recycle(buf)
		if _, hole, err := b.Next(buf); err != nil {
			return err
		} else if hole {
			clear(buf[:tail])
		}
		d.addTail(n, buf[:tail], blocks == 0)
	}
	_, _, err = b.Next(nil)
	return err
}

// copy is file for a file whose whole blocks are in another image.
func (d *direct) copy(n *node, head sum, blocks, tail int) error {
	f := n.From
	if len(f.sizes) != blocks || f.size != n.Size {
		return bad("the file has %d bytes in %d blocks there", f.size, len(f.sizes))
	}
	if shared := d.byHead[head]; shared != nil && d.twins[n] {
		n.data.run = shared
	} else if blocks > 0 {
		var put func(int) func(uint64, uint32)
		n.data.run, put = newRun(blocks)
		if d.twins[n] {
			d.byHead[head] = n.data.run
		}
		start := f.start
		for i, size := range f.sizes {
			j := &job{size: size, put: put(i)}
			if length, _ := Length(size); length > 0 {
				j.read = f.image.raw(start)
				start += uint64(length)
			}
			d.send(j)
		}
	}
	if tail == 0 {
		return nil
	}
	buf := d.buffer()
	defer d.recycle(buf)
	if _, err := f.ReadAt(buf[:tail], n.Size-int64(tail)); err != nil {
		return err
	}
	if d.addTail(n, buf[:tail], blocks == 0) {
		d.whole.add(f, len(d.tail)-tail)
	}
	return nil
}

// source is a fragment of another image that begins with the bytes of the one
// being filled.
type source struct {
	image    *Reader
	fragment uint32
	end      int // bytes of it
}

// add records that the tail of a file is at a place of the fragment being filled.
func (s *source) add(f *File, at int) {
	switch {
	case at == 0 && f.offset == 0:
		*s = source{f.image, f.fragment, int(f.size % int64(f.image.Options.Compression.BlockSize))}
	case s.image == f.image && s.fragment == f.fragment && s.end == at && int(f.offset) == at:
		s.end += int(f.size % int64(f.image.Options.Compression.BlockSize))
	}
}

// covers reports whether the fragment being filled, of n bytes, is all of it.
func (s source) covers(n int) bool {
	if s.image == nil || s.end != n {
		return false
	}
	s.image.mu.Lock()
	defer s.image.mu.Unlock()
	b, err := s.image.fragmentBytes(s.fragment)
	return err == nil && len(b) == n
}

// skip discards a block.
func (b *BlockReader) skip(d *direct) error {
	buf := d.buffer()
	defer d.recycle(buf)
	_, _, err := b.Next(buf)
	return err
}

func (d *direct) sendBlock(i int, buf []byte, hole bool, put func(uint64, uint32)) {
	if hole {
		d.recycle(buf)
		d.send(&job{put: put})
		return
	}
	j := &job{put: put}
	j.work = func(enc *Encoder) {
		spare := d.buffer()
		j.out, j.size, j.err = enc.Encode(i, buf, spare)
		d.keep(j, buf, spare)
	}
	d.send(j)
}

// keep recycles the one of two buffers that the job does not hold, and the
// other when it was written.
func (d *direct) keep(j *job, in, spare []byte) {
	if len(j.out) > 0 && &j.out[0] == &in[0] {
		d.recycle(spare)
		j.free = func() { d.recycle(in) }
		return
	}
	d.recycle(in)
	out := j.out
	if cap(out) < cap(spare) {
		out = spare
	}
	j.free = func() { d.recycle(out) }
}

// addTail puts the tail of a file into a fragment, or finds the same tail of another
// file. small reports that the tail is the whole file.
func (d *direct) addTail(n *node, b []byte, small bool) (added bool) {
	if small && d.sizes[n.Size] > 1 {
		all := sha256.Sum256(b)
		if same := d.bySum[all]; same != nil {
			n.data = same
			return false
		}
		d.bySum[all] = n.data
	}
	d.place(n, len(b), d.flush)
	if d.tail == nil {
		d.tail = d.buffer()[:0]
	}
	d.tail = append(d.tail, b...)
	return true
}

// flush sends the fragment being filled.
func (d *direct) flush() {
	if len(d.tail) == 0 {
		return
	}
	in, whole := d.tail, d.whole
	d.tail, d.whole = nil, source{}
	j := &job{put: d.newFragment()}
	if whole.covers(len(in)) {
		d.recycle(in)
		x := whole.image.fragments[whole.fragment]
		j.size, j.read = x.size, whole.image.raw(x.start)
		d.send(j)
		return
	}
	j.work = func(enc *Encoder) {
		spare := d.buffer()
		j.out, j.size, j.err = enc.encode(in, spare)
		d.keep(j, in, spare)
	}
	d.send(j)
}

// buffer returns a buffer for a block, and for a compressed one that grew.
func (d *direct) buffer() []byte {
	select {
	case b := <-d.free:
		return b
	default:
		return make([]byte, d.o.Compression.BlockSize, d.o.Compression.BlockSize+1<<10)
	}
}

func (d *direct) recycle(b []byte) {
	if cap(b) < d.o.Compression.BlockSize {
		return
	}
	select {
	case d.free <- b[:d.o.Compression.BlockSize]:
	default:
	}
}
