package builder

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"

	"github.com/pikelet-os/pikelet/builder/cache"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/apk"
	"github.com/pikelet-os/pikelet/layers/store"
)

// contents keeps what the files of a build hold, and what was made of its
// inputs: for as long as the build runs and, with a cache, for the next.
type contents struct {
	pool   *store.Pool
	budget *store.Budget
	cache  *cache.Cache // nil: nothing is taken from earlier builds or left to later ones
	fresh  bool         // take nothing, but leave it
	tool   string       // the version of pikelet
	work   string
	spool  *store.File // what is this build's alone

	mu     sync.Mutex
	close  []func()
	finish []func() error
}

// openContents begins a build in the directory work. Nothing it takes is larger
// than limit bytes unpacked.
func openContents(in Inputs, c squashfs.Compression, limit int64, work string) (*contents, error) {
	pool, err := store.NewPool(in.Workers, c)
	if err != nil {
		return nil, err
	}
	all := &contents{pool: pool, budget: store.NewBudget(limit), cache: in.Made, fresh: in.Fresh, tool: in.Tool, work: work}
	if all.spool, err = pool.Temp(work, all.budget); err != nil {
		pool.Close()
		return nil, err
	}
	all.later(func() { all.spool.Close() })
	return all, nil
}

func (c *contents) later(f func()) {
	c.mu.Lock()
	c.close = append(c.close, f)
	c.mu.Unlock()
}

// Close ends the build's contents: they may not be read any more.
func (c *contents) Close() {
	c.pool.Close()
	for _, f := range c.close {
		f()
	}
}

// key says what is made, of what, and by what: another version of pikelet may
// make it otherwise.
func (c *contents) key(kind string, of ...any) string {
	return fmt.Sprintf("%s %s %d %s %q", kind, c.tool, squashfs.Generation, c.pool.Compression.Name, of)
}

// draft is a file to keep things in: the cache's, or the build's own.
func (c *contents) draft() (*os.File, func(key string), error) {
	if c.cache != nil {
		if d, err := c.cache.Create(cache.Made); err == nil {
			c.later(d.Drop)
			return d.File, func(key string) { d.Keep(key) }, nil // a cache that fails only costs time
		}
	}
	f, err := os.CreateTemp(c.work, ".made-")
	if err != nil {
		return nil, nil, err
	}
	c.later(func() { f.Close() })
	return f, func(string) {}, nil
}

// find opens what an earlier build left.
func (c *contents) find(key string) *os.File {
	if c.cache == nil || c.fresh {
		return nil
	}
	f, err := c.cache.Open(cache.Made, key)
	if err != nil {
		return nil
	}
	return f
}

// part is what a package, an archive or a file brings, with the contents in
// the same file.
type part struct {
	Files   layers.Part
	Package *apk.Package      // of a package
	SHA256  string            // of the file of a package, hexadecimal digits
	Scripts map[string][]byte // of a package
	Lone    *store.Content    // of a lone file
}

// all lists what of the part is kept in its file.
func (p *part) all() []*store.Content {
	var list []*store.Content
	if p.Lone != nil {
		list = append(list, p.Lone)
	}
	for _, e := range p.Files {
		if e.Content != nil {
			list = append(list, e.Content)
		}
	}
	return list
}

// copy returns a part whose entries may be changed: a tree that they are laid
// over moves and dresses them. Contents stay shared.
func (p *part) copy() *part {
	own := *p
	own.Files = make(layers.Part, len(p.Files))
	for i, e := range p.Files {
		entry := *e
		own.Files[i] = &entry
	}
	if p.Package != nil {
		pkg := *p.Package
		own.Package = &pkg
	}
	return &own
}

// A part's file ends with a gob of the part and a footer: magic, CRC-32C of
// the gob, and where it begins.
const (
	partMagic  = "PKLTPART"
	partFooter = 8 + 4 + 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// part returns what fill makes of what key names, or made when it was asked
// for the last time. The part is left to later builds when all its blocks are
// compressed: Finish waits for that.
func (c *contents) part(key string, fill func(*store.File) (*part, error)) (*part, error) {
	if f := c.find(key); f != nil {
		c.later(func() { f.Close() })
		if p, err := readPart(f); err == nil {
			return p, c.pool.New(f, c.budget).Adopt(p.all())
		}
	}
	f, keep, err := c.draft()
	if err != nil {
		return nil, err
	}
	file := c.pool.New(f, c.budget)
	p, err := fill(file)
	if err != nil {
		file.Wait()
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finish = append(c.finish, func() error {
		if err := file.Wait(); err != nil {
			return err
		}
		if err := writePart(f, file.Size(), p); err != nil {
			return err
		}
		keep(key)
		return nil
	})
	return p.copy(), nil // what is left to others is what was made
}

// Finish waits for all blocks, and leaves the parts to later builds.
func (c *contents) Finish() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.finish {
		if err := f(); err != nil {
			return err
		}
	}
	c.finish = nil
	return c.spool.Wait()
}

func writePart(f *os.File, at int64, p *part) error {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(p); err != nil {
		return err
	}
	sum := crc32.Checksum(b.Bytes(), castagnoli)
	b.WriteString(partMagic)
	b.Write(binary.LittleEndian.AppendUint32(nil, sum))
	b.Write(binary.LittleEndian.AppendUint64(nil, uint64(at)))
	_, err := f.WriteAt(b.Bytes(), at)
	return err
}

func readPart(f *os.File) (*part, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	foot := make([]byte, partFooter)
	if _, err := f.ReadAt(foot, st.Size()-partFooter); err != nil {
		return nil, err
	}
	at := int64(binary.LittleEndian.Uint64(foot[12:]))
	if string(foot[:8]) != partMagic || at < 0 || at > st.Size()-partFooter {
		return nil, store.ErrCorrupt
	}
	b := make([]byte, st.Size()-partFooter-at)
	if _, err := f.ReadAt(b, at); err != nil {
		return nil, err
	}
	if crc32.Checksum(b, castagnoli) != binary.LittleEndian.Uint32(foot[8:]) {
		return nil, store.ErrCorrupt
	}
	p := &part{}
	err = gob.NewDecoder(bytes.NewReader(b)).Decode(p)
	return p, err
}

// blob is part for what is small enough to be in memory.
func (c *contents) blob(key string, encode func() ([]byte, error)) ([]byte, error) {
	if b := c.findBlob(key); b != nil {
		return b, nil
	}
	b, err := encode()
	if err != nil {
		return nil, err
	}
	if c.cache == nil {
		return b, nil
	}
	return b, c.keepBlob(key, b)
}

func (c *contents) findBlob(key string) []byte {
	f := c.find(key)
	if f == nil {
		return nil
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() < 4 {
		return nil
	}
	b := make([]byte, st.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		return nil
	}
	n := len(b) - 4
	if crc32.Checksum(b[:n], castagnoli) != binary.LittleEndian.Uint32(b[n:]) {
		return nil
	}
	return b[:n]
}

func (c *contents) keepBlob(key string, b []byte) error {
	d, err := c.cache.Create(cache.Made)
	if err != nil {
		return nil // a cache that fails only costs time
	}
	defer d.Drop()
	if _, err := d.Write(binary.LittleEndian.AppendUint32(bytes.Clone(b), crc32.Checksum(b, castagnoli))); err != nil {
		return err
	}
	if err := d.Close(); err != nil { // some systems rename no file that is open
		return err
	}
	d.Keep(key)
	return nil
}

// Fragment keeps compressed fragments: a file that changed costs its own
// fragment. What it returns is on the disk until the image is written.
func (c *contents) Fragment(key [sha256.Size]byte, encode func() ([]byte, uint32, error)) (uint32, func([]byte) error, error) {
	name := c.key("fragment", key)
	b, err := c.blob(name, func() ([]byte, error) {
		b, size, err := encode()
		return append(binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(b)), size), b...), err
	})
	if err != nil {
		return 0, nil, err
	}
	kept, err := c.spool.Keep(b[4:])
	return binary.LittleEndian.Uint32(b), kept, err
}

// Put keeps the contents of a file of a directory. One with whole blocks is
// hashed first, and compressed only where no earlier build did: that is read
// twice, when it is new.
func (c *contents) Put(f *os.File, size int64) (*store.Content, error) {
	if c.cache == nil || size < int64(c.pool.Compression.BlockSize) {
		return c.spool.Put(f, size)
	}
	sum := sha256.New()
	if err := hashBlocks(sum, f, size); err != nil {
		return nil, err
	}
	p, err := c.part(c.key("file", sum.Sum(nil)), func(file *store.File) (*part, error) {
		lone, err := file.Put(f, size)
		if err == nil && !bytes.Equal(lone.Sum[:], sum.Sum(nil)) {
			err = errors.New("the file changed while it was read")
		}
		return &part{Lone: lone}, err
	})
	if err != nil {
		return nil, err
	}
	return p.Lone, nil
}

// hashBlocks hashes a file without reading its holes, and leaves it at its
// beginning.
func hashBlocks(to io.Writer, f *os.File, size int64) error {
	const step = 256 << 10
	buf := make([]byte, step)
	for r := squashfs.NewBlockReader(f, size, step); ; {
		n, hole, err := r.Next(buf)
		switch {
		case err != nil:
			return err
		case n == 0:
			_, err = f.Seek(0, io.SeekStart)
			return err
		case hole:
			squashfs.WriteZeros(to, n)
		default:
			to.Write(buf[:n])
		}
	}
}
