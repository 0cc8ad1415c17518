package fat

import (
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"
	"time"
)

// File is one file of a planned volume.
type File struct {
	Name string // with slashes; directories are created as needed
	Size int64  // bytes, below 4 GiB

	// Align is the alignment of the first byte, in bytes from the start of the
	// volume; 0 for none. Apart is how many bytes before and behind the file
	// stay free of other files.
	Align, Apart int64
}

// Options determine the bytes of a volume together with its files.
type Options struct {
	Size     int64 // bytes of the volume
	Hidden   int64 // bytes before it on its disk
	VolumeID uint32
	Label    string // at most 11 upper-case letters
	Time     time.Time
}

// Layout is a planned volume that is not written yet.
type Layout struct {
	geometry
	root  *folder
	files []placed
	date  uint16
	clock uint16
	used  uint32 // clusters in use
	next  uint32 // the first cluster behind all
}

type placed struct {
	File
	first uint32 // 0 for an empty file
}

type folder struct {
	name     string
	parent   *folder
	first    uint32
	entries  []entry
	children map[string]*folder
}

type entry struct {
	name  string
	short [11]byte
	attr  byte
	first uint32
	size  uint32
	dir   *folder
}

// Plan lays out a volume: directories first, then the files in the order given, each
// contiguous. It returns an error if they do not fit, or for an invalid name.
func Plan(files []File, o Options) (*Layout, error) {
	g, err := plan(o.Size)
	if err != nil {
		return nil, err
	}
	g.hidden = uint32(o.Hidden / sectorSize)
	g.volumeID = o.VolumeID
	g.label = o.Label
	l := &Layout{geometry: g, root: &folder{children: map[string]*folder{}}, next: 2}
	l.date, l.clock = dosTime(o.Time)
	if err := l.tree(files); err != nil {
		return nil, err
	}
	if err := l.place(files); err != nil {
		return nil, err
	}
	return l, l.link(l.root)
}

// tree makes the directories and names their entries.
func (l *Layout) tree(files []File) error {
	for i, f := range files {
		if f.Size < 0 || f.Size >= 1<<32 {
			return fmt.Errorf("placing %q: %d bytes; FAT holds files below 4 GiB", f.Name, f.Size)
		}
		dir := l.root
		parts := strings.Split(path.Clean(f.Name), "/")
		for _, p := range parts[:len(parts)-1] {
			if err := checkName(p); err != nil {
				return err
			}
			key := strings.ToUpper(p)
			if dir.children[key] == nil {
				sub := &folder{name: p, parent: dir, children: map[string]*folder{}}
				dir.children[key] = sub
				dir.entries = append(dir.entries, entry{name: p, attr: attrDir, dir: sub})
			}
			dir = dir.children[key]
		}
		name := parts[len(parts)-1]
		if err := checkName(name); err != nil {
			return err
		}
		dir.entries = append(dir.entries, entry{name: name, attr: attrArchive, size: uint32(f.Size), first: uint32(i)})
	}
	return nil
}

// place assigns clusters to directories, then to files.
func (l *Layout) place(files []File) error {
	var err error
	l.walk(l.root, func(d *folder) {
		if err == nil {
			err = d.name83()
		}
		n := 0
		for _, e := range d.entries {
			n += entrySize + len(encodeLongName(e.name, e.short))
		}
		n += 2 * entrySize // the label, or . and ..
		d.first = l.take(int64(n))
	})
	if err != nil {
		return err
	}
	for _, f := range files {
		p := placed{File: f}
		if f.Size > 0 {
			if err := l.skipTo(f); err != nil {
				return err
			}
			p.first = l.take(f.Size)
			l.next += l.clustersFor(f.Apart)
		}
		l.files = append(l.files, p)
	}
	if over := int64(l.next) - 2 - int64(l.clusters()); over > 0 {
		return fmt.Errorf("the files need %d MiB more than the %d MiB of this volume; make it larger",
			(over*l.clusterSize()>>20)+1, int64(l.total)*sectorSize>>20)
	}
	return nil
}

func (l *Layout) clustersFor(bytes int64) uint32 {
	return uint32((bytes + l.clusterSize() - 1) / l.clusterSize())
}

func (l *Layout) take(bytes int64) (first uint32) {
	n := max(1, l.clustersFor(bytes))
	first = l.next
	l.next += n
	l.used += n
	return first
}

// skipTo leaves clusters free up to one where f may begin.
func (l *Layout) skipTo(f File) error {
	if f.Align&(f.Align-1) != 0 || f.Align > 16<<20 {
		return fmt.Errorf("placing %q: an alignment of %d bytes", f.Name, f.Align)
	}
	l.next += l.clustersFor(f.Apart)
	for f.Align > 1 && l.offset(l.next)%f.Align != 0 {
		l.next++
	}
	return nil
}

func (l *Layout) walk(d *folder, visit func(*folder)) {
	visit(d)
	keys := make([]string, 0, len(d.children))
	for k := range d.children {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		l.walk(d.children[k], visit)
	}
}

// name83 sorts a directory's entries and assigns short names. A name that is 8.3
// apart from its case is its own short name: the boot ROM of BCM2837 looks for
// BOOTCODE.BIN by its short name.
func (d *folder) name83() error {
	sort.Slice(d.entries, func(i, j int) bool { return d.entries[i].name < d.entries[j].name })
	taken := map[[11]byte]bool{}
	seen := map[string]bool{}
	for i := range d.entries {
		e := &d.entries[i]
		if up := strings.ToUpper(e.name); seen[up] {
			return fmt.Errorf("two files of a volume are called %q; FAT does not tell case apart", e.name)
		} else {
			seen[up] = true
		}
		if s, ok := shortName(e.name); ok {
			e.short, taken[s] = s, true
		}
	}
	for i := range d.entries {
		e := &d.entries[i]
		if e.short != [11]byte{} {
			continue
		}
		s, err := alias(e.name, taken)
		if err != nil {
			return err
		}
		e.short, taken[s] = s, true
	}
	return nil
}

// link turns file numbers in entries into first clusters.
func (l *Layout) link(d *folder) error {
	for i := range d.entries {
		e := &d.entries[i]
		if e.dir != nil {
			e.first = e.dir.first
			if err := l.link(e.dir); err != nil {
				return err
			}
			continue
		}
		e.first = l.files[e.first].first
	}
	return nil
}

// Offset returns the offset of a planned file, in bytes from the start of the
// volume, or -1 for an empty or unknown file.
func (l *Layout) Offset(name string) int64 {
	for _, f := range l.files {
		if f.Name == name && f.first != 0 {
			return l.offset(f.first)
		}
	}
	return -1
}

// Contents opens the files of a volume by their names in the plan. Empty files
// are not opened.
type Contents func(name string) (io.ReadCloser, error)

// Write writes the volume to w, whose offset 0 is the start of the volume. The boot
// sector is written last, so that an interrupted write leaves no volume that the
// firmware would read.
func (l *Layout) Write(w io.WriterAt, open Contents) error {
	for _, f := range l.files {
		if f.first == 0 {
			continue
		}
		if err := l.copyFile(w, f, open); err != nil {
			return fmt.Errorf("writing %q: %w", f.Name, err)
		}
	}
	var dirs []*folder
	l.walk(l.root, func(d *folder) { dirs = append(dirs, d) })
	for _, d := range dirs {
		b := l.encodeDir(d)
		b = append(b, make([]byte, int64(l.clustersFor(int64(len(b))))*l.clusterSize()-int64(len(b)))...)
		if _, err := w.WriteAt(b, l.offset(d.first)); err != nil {
			return fmt.Errorf("writing the directory %q: %w", d.name, err)
		}
	}
	return l.writeTables(w, dirs)
}

// CopierAt is an io.WriterAt with a faster way to copy a whole file.
type CopierAt interface {
	io.WriterAt
	CopyAt(r io.Reader, at int64) (n int64, err error)
}

// copySize is the size of reads and writes, in bytes.
const copySize = 1 << 20

func (l *Layout) copyFile(w io.WriterAt, f placed, open Contents) error {
	r, err := open(f.Name)
	if err != nil {
		return err
	}
	defer r.Close()
	var n int64
	from, at := io.LimitReader(r, f.Size+1), l.offset(f.first)
	if c, ok := w.(CopierAt); ok {
		n, err = c.CopyAt(from, at)
	} else {
		n, err = io.CopyBuffer(io.NewOffsetWriter(w, at), from, make([]byte, min(copySize, f.Size+1)))
	}
	if err != nil {
		return err
	}
	if n != f.Size {
		return fmt.Errorf("%d bytes were announced, not %d", f.Size, n)
	}
	if tail := n % l.clusterSize(); tail != 0 {
		_, err = w.WriteAt(make([]byte, l.clusterSize()-tail), l.offset(f.first)+n)
	}
	return err
}

func (l *Layout) writeTables(w io.WriterAt, dirs []*folder) error {
	table := make([]byte, int64(l.fatSectors)*sectorSize)
	put := func(cluster, value uint32) { binary.LittleEndian.PutUint32(table[4*cluster:], value) }
	put(0, 0x0fffff00|mediaFixed)
	put(1, endOfChain)
	chain := func(first, n uint32) {
		for c := first; c < first+n-1; c++ {
			put(c, c+1)
		}
		put(first+n-1, endOfChain)
	}
	for _, d := range dirs {
		chain(d.first, l.clustersFor(int64(len(l.encodeDir(d)))))
	}
	for _, f := range l.files {
		if f.first != 0 {
			chain(f.first, l.clustersFor(f.Size))
		}
	}
	boot := l.encode()
	for _, part := range []struct {
		at   uint32
		data []byte
	}{
		{l.reserved, table},
		{l.reserved + l.fatSectors, table},
		{fsInfoSector, l.fsInfo()},
		{backupBootSector, boot},
		{backupBootSector + fsInfoSector, l.fsInfo()},
		{0, boot},
	} {
		if _, err := w.WriteAt(part.data, int64(part.at)*sectorSize); err != nil {
			return fmt.Errorf("writing sector %d of a FAT32 volume: %w", part.at, err)
		}
	}
	return nil
}

func (l *Layout) fsInfo() []byte {
	s := make([]byte, sectorSize)
	le := binary.LittleEndian
	le.PutUint32(s, 0x41615252)
	le.PutUint32(s[484:], 0x61417272)
	le.PutUint32(s[488:], l.clusters()-l.used)
	le.PutUint32(s[492:], l.next)
	le.PutUint32(s[508:], 0xaa550000)
	return s
}

func (l *Layout) encodeDir(d *folder) []byte {
	var b []byte
	add := func(short []byte, attr byte, first, size uint32) {
		e := make([]byte, entrySize)
		copy(e, short)
		e[11] = attr
		le := binary.LittleEndian
		le.PutUint16(e[14:], l.clock)
		le.PutUint16(e[16:], l.date)
		le.PutUint16(e[18:], l.date)
		le.PutUint16(e[20:], uint16(first>>16))
		le.PutUint16(e[22:], l.clock)
		le.PutUint16(e[24:], l.date)
		le.PutUint16(e[26:], uint16(first))
		le.PutUint32(e[28:], size)
		b = append(b, e...)
	}
	if d.parent == nil {
		add(padded(l.label, 11), attrVolume, 0, 0)
	} else {
		up := d.parent.first
		if d.parent.parent == nil {
			up = 0 // the root directory is cluster 0 to its children
		}
		add(padded(".", 11), attrDir, d.first, 0)
		add(padded("..", 11), attrDir, up, 0)
	}
	for _, e := range d.entries {
		b = append(b, encodeLongName(e.name, e.short)...)
		add(e.short[:], e.attr, e.first, e.size)
	}
	return b
}
