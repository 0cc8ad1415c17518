package squashfs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// fragment is a block filled with the tails of several files.
type fragment struct {
	start uint64
	size  uint32 // size word
}

// dataWriter reads files in order, lets workers compress their blocks, and
// writes the blocks in the order they were read: the bytes do not depend on
// which worker was faster.
type dataWriter struct {
	out       *output
	blockSize int
	workers   int
	fragments []*fragment                     // each is filled in by the writer
	tail      []byte                          // the fragment block being filled
	bySum     map[[sha256.Size]byte]*fileData // contents written so far
	jobs      chan *job                       // to the workers
	order     chan *job                       // the same, to the writer
	free      chan []byte                     // buffers to use again
}

// job is one block on its way through a worker to the disk.
type job struct {
	in     []byte
	out    []byte // compressed, or in where that is no larger
	stored bool
	zero   bool
	done   chan struct{}
	put    func(start uint64, size uint32) // told where the block went
}

func newDataWriter(out *output, o Options) *dataWriter {
	return &dataWriter{
		out: out, blockSize: o.BlockSize, workers: max(1, o.Workers),
		bySum: map[[sha256.Size]byte]*fileData{},
	}
}

// writeAll writes the contents of every file below root.
func (d *dataWriter) writeAll(root *node) error {
	sizes := map[int64]int{}
	root.files(func(n *node) error { sizes[n.Size]++; return nil })

	depth := 2 * d.workers // blocks in flight; this bounds the memory
	d.jobs = make(chan *job, depth)
	d.order = make(chan *job, depth)
	d.free = make(chan []byte, 2*depth+4)
	var workers sync.WaitGroup
	for range d.workers {
		enc, err := newEncoder(d.blockSize)
		if err != nil {
			return err
		}
		workers.Add(1)
		go func() {
			defer workers.Done()
			defer enc.Close()
			for j := range d.jobs {
				d.compress(enc, j)
			}
		}()
	}
	wrote := make(chan error, 1)
	go func() { wrote <- d.drain() }()

	err := root.files(func(n *node) error {
		if err := d.file(n, sizes[n.Size] > 1); err != nil {
			return fmt.Errorf("packing %q: %w", n.path(), err)
		}
		return nil
	})
	d.flushTail()
	close(d.jobs)
	close(d.order)
	workers.Wait()
	if werr := <-wrote; err == nil && werr != nil {
		err = fmt.Errorf("writing squashfs: %w", werr)
	}
	return err
}

// newEncoder returns an encoder whose every frame stands alone, in a window
// the kernel can afford: one block.
func newEncoder(blockSize int) (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(blockSize), zstd.WithEncoderLevel(zstd.SpeedDefault))
}

func (d *dataWriter) compress(enc *zstd.Encoder, j *job) {
	defer close(j.done)
	if j.zero {
		return
	}
	j.out = enc.EncodeAll(j.in, d.buffer())
	if len(j.out) >= len(j.in) {
		d.recycle(j.out)
		j.out, j.stored = j.in, true
		return
	}
	d.recycle(j.in)
}

// drain writes finished blocks. After an error it goes on taking them, so
// that nobody waits for it.
func (d *dataWriter) drain() error {
	var failed error
	for j := range d.order {
		<-j.done
		if failed != nil {
			continue
		}
		start, size := uint64(d.out.at), uint32(len(j.out))
		if j.stored {
			size |= storedData
		}
		if _, err := d.out.Write(j.out); err != nil {
			failed = err
			continue
		}
		j.put(start, size)
		d.recycle(j.out)
	}
	return failed
}

func (d *dataWriter) send(j *job) {
	j.done = make(chan struct{})
	d.order <- j
	d.jobs <- j
}

func (d *dataWriter) buffer() []byte {
	select {
	case b := <-d.free:
		return b[:0]
	default:
		return make([]byte, 0, d.blockSize+1<<10)
	}
}

func (d *dataWriter) recycle(b []byte) {
	if cap(b) < d.blockSize {
		return
	}
	select {
	case d.free <- b:
	default:
	}
}

// file sends a file's whole blocks on their way and keeps its tail for a
// fragment. twin says that another file has the same size.
func (d *dataWriter) file(n *node, twin bool) error {
	n.data = &fileData{fragment: noFragment}
	if n.Size == 0 {
		return nil
	}
	if twin {
		sum, err := n.sum()
		if err != nil {
			return err
		}
		if same := d.bySum[sum]; same != nil {
			n.data = same
			return nil
		}
		d.bySum[sum] = n.data
	}
	r, err := n.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	data := n.data
	data.blocks = make([]uint32, n.Size/int64(d.blockSize))
	for i := range data.blocks {
		buf := d.buffer()[:d.blockSize]
		if _, err := io.ReadFull(r, buf); err != nil {
			return shortRead(n.Size, err)
		}
		first := i == 0
		d.send(&job{in: buf, zero: isZero(buf), put: func(start uint64, size uint32) {
			data.blocks[i] = size
			if first {
				data.start = start
			}
		}})
	}
	left := int(n.Size % int64(d.blockSize))
	if len(d.tail)+left > d.blockSize {
		d.flushTail()
	}
	if left > 0 {
		if d.tail == nil {
			d.tail = d.buffer()
		}
		at := len(d.tail)
		d.tail = d.tail[:at+left]
		if _, err := io.ReadFull(r, d.tail[at:]); err != nil {
			return shortRead(n.Size, err)
		}
		data.fragment, data.offset = uint32(len(d.fragments)), uint32(at)
	}
	if extra, _ := io.ReadFull(r, make([]byte, 1)); extra != 0 {
		return fmt.Errorf("it holds more than the %d bytes that were announced", n.Size)
	}
	return nil
}

func shortRead(size int64, err error) error {
	return fmt.Errorf("reading its %d bytes: %w", size, err)
}

// flushTail sends the fragment block being filled.
func (d *dataWriter) flushTail() {
	if len(d.tail) == 0 {
		return
	}
	f := &fragment{}
	d.fragments = append(d.fragments, f)
	d.send(&job{in: d.tail, put: func(start uint64, size uint32) { *f = fragment{start, size} }})
	d.tail = nil
}

var zeros [64 << 10]byte

func isZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}
