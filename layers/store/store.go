// Package store keeps the contents of files in the form a root wants them:
// whole blocks compressed, what is left of a file as it is. Contents are
// hashed and compressed once, as they come, on all cores; a root is then put
// together from blocks that are there.
package store

import (
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
)

// Pool compresses blocks for all files of a build.
type Pool struct {
	Compression squashfs.Compression
	jobs        chan job
	buffers     chan []byte // each for one block; their number bounds the memory
	workers     sync.WaitGroup
}

type job struct {
	file *File
	to   *Content
	i    int
	in   []byte
}

// NewPool starts so many workers; Close stops them.
func NewPool(workers int, c squashfs.Compression) (*Pool, error) {
	workers = max(1, workers)
	p := &Pool{Compression: c, jobs: make(chan job, 2*workers), buffers: make(chan []byte, 4*workers+4)}
	for range cap(p.buffers) {
		p.buffers <- nil // made when first used
	}
	for range workers {
		enc, err := c.NewEncoder()
		if err != nil {
			p.Close()
			return nil, err
		}
		p.workers.Add(1)
		go func() {
			defer p.workers.Done()
			defer enc.Close()
			out := make([]byte, 0, c.BlockSize+1<<10)
			for j := range p.jobs {
				out = p.do(j, enc, out)
			}
		}()
	}
	return p, nil
}

// Close stops the workers when they have done what they were given.
func (p *Pool) Close() {
	close(p.jobs)
	p.workers.Wait()
}

// do compresses a block and writes it. It returns room for the next.
func (p *Pool) do(j job, enc *squashfs.Encoder, out []byte) []byte {
	defer j.to.pending.Done()
	b, size, err := enc.Encode(j.i, j.in, out)
	if err == nil {
		j.to.Blocks[j.i], err = j.file.keep(b, size)
	}
	if err != nil {
		j.file.failed.CompareAndSwap(nil, &err)
	}
	if _, compressed := squashfs.Length(size); compressed && cap(b) > cap(out) {
		out = b
	}
	p.give(j.in)
	return out[:0]
}

// take waits for a buffer.
func (p *Pool) take() []byte {
	b := <-p.buffers
	if b == nil {
		b = make([]byte, p.Compression.BlockSize)
	}
	return b
}

func (p *Pool) give(b []byte) { p.buffers <- b[:p.Compression.BlockSize] }

// maxHeaders bounds the bytes of memory that names, link targets and
// attributes of all entries of a build take. A full k3s image, of 15,000
// files, takes 5 MiB.
const maxHeaders = 512 << 20

// Budget bounds the bytes that all files of a build may hold on disk and
// their entries in memory: an archive can promise more than any image takes.
type Budget struct {
	limit   int64
	used    atomic.Int64
	headers atomic.Int64
}

// NewBudget returns a budget of limit bytes of contents.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit} }

func (b *Budget) take(n int64) error {
	if !claim(&b.used, n, b.limit) {
		return hint.With(fmt.Errorf("the root has more than %d MiB, more than its slots can hold", b.limit>>20),
			"leave something out or raise slot-size")
	}
	return nil
}

// claim adds n to used and reports whether it stays within limit; what does
// not is not added.
func claim(used *atomic.Int64, n, limit int64) bool {
	for {
		was := used.Load()
		if n < 0 || n > limit-was {
			return false
		}
		if used.CompareAndSwap(was, was+n) {
			return true
		}
	}
}

// TakeHeader counts n bytes of memory that an entry takes beside its contents.
func (f *File) TakeHeader(n int64) error {
	if !claim(&f.budget.headers, n, maxHeaders) {
		return fmt.Errorf("names, links and attributes take more than %d MiB of memory", maxHeaders>>20)
	}
	return nil
}

// File is a file on disk that holds contents, one behind the other as they are
// done.
type File struct {
	f      *os.File
	pool   *Pool
	budget *Budget
	at     atomic.Int64
	failed atomic.Pointer[error] // the first write that failed
	list   []*Content
	listed sync.Mutex
}

// New returns an empty File that keeps contents in f.
func (p *Pool) New(f *os.File, b *Budget) *File { return &File{f: f, pool: p, budget: b} }

// Temp returns an empty File in a new file of dir, which Close removes.
func (p *Pool) Temp(dir string, b *Budget) (*File, error) {
	f, err := os.CreateTemp(dir, ".tree-")
	if err != nil {
		return nil, err
	}
	return p.New(f, b), nil
}

// Close ends the file and everything in it, and removes it.
func (f *File) Close() error {
	err := f.f.Close()
	os.Remove(f.f.Name())
	return err
}

// Content is what a regular file holds.
type Content struct {
	Size   int64
	Sum    [sha256.Size]byte // of all of it
	Head   [sha256.Size]byte // of its whole blocks
	Blocks []Block           // its whole blocks
	Tail   Block             // what is behind them, as it is

	file    *File
	pending sync.WaitGroup // blocks that are not done yet
}

// Block is where a block is kept.
type Block struct {
	At   int64
	Word uint32 // size word, as squashfs has it; 0 is a hole
	CRC  uint32 // CRC-32C of the bytes kept: disks rot, and caches live long
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// keep writes the bytes of a block.
func (f *File) keep(b []byte, word uint32) (Block, error) {
	if len(b) == 0 {
		return Block{Word: word}, nil
	}
	at := f.at.Add(int64(len(b))) - int64(len(b))
	if _, err := f.f.WriteAt(b, at); err != nil {
		return Block{}, err
	}
	return Block{At: at, Word: word, CRC: crc32.Checksum(b, castagnoli)}, nil
}

// Keep keeps bytes that are no file's, and returns what reads them.
func (f *File) Keep(b []byte) (read func(to []byte) error, err error) {
	kept, err := f.keep(b, uint32(len(b)))
	c := &Content{Tail: kept, file: f}
	return c.ReadTail, err
}

// Put takes the size bytes of r. Its blocks may still be compressed when it
// returns; whoever reads the content waits for them. Several goroutines may
// put at once.
func (f *File) Put(r io.Reader, size int64) (*Content, error) {
	if err := f.budget.take(size); err != nil {
		return nil, err
	}
	if err := f.failed.Load(); err != nil {
		return nil, *err
	}
	bs := int64(f.pool.Compression.BlockSize)
	c := &Content{Size: size, Blocks: make([]Block, size/bs), file: f}
	all := sha256.New()
	blocks := squashfs.NewBlockReader(r, size, int(bs))
	for i := 0; ; i++ {
		if i == len(c.Blocks) {
			all.Sum(c.Head[:0])
		}
		buf := f.pool.take()
		n, hole, err := blocks.Next(buf)
		switch {
		case err != nil || n == 0:
			f.pool.give(buf)
			all.Sum(c.Sum[:0])
			f.add(c)
			return c, err
		case hole:
			squashfs.WriteZeros(all, n)
			clear(buf[:n])
		default:
			all.Write(buf[:n])
		}
		if i == len(c.Blocks) {
			c.Tail, err = f.keep(buf[:n], uint32(n))
			f.pool.give(buf)
			if err != nil {
				return nil, err
			}
			continue
		}
		if hole {
			f.pool.give(buf)
			continue
		}
		c.pending.Add(1)
		f.pool.jobs <- job{f, c, i, buf}
	}
}

func (f *File) add(c *Content) {
	f.listed.Lock()
	f.list = append(f.list, c)
	f.listed.Unlock()
}

// Wait returns when all that was put is on its way to the disk, and the first
// error of writing it.
func (f *File) Wait() error {
	f.listed.Lock()
	defer f.listed.Unlock()
	for _, c := range f.list {
		c.pending.Wait()
	}
	f.list = nil
	if err := f.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Size returns how many bytes the file holds so far.
func (f *File) Size() int64 { return f.at.Load() }
