package apk

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/layers/apk/adb"
)

// Numbers of the fields of directories, files, and of what both have: mode,
// owner and extended attributes.
const (
	dirName  = 1
	dirACL   = 2
	dirFiles = 3

	fileName   = 1
	fileACL    = 2
	fileSize   = 3
	fileMtime  = 4
	fileHash   = 5
	fileTarget = 6

	aclMode   = 1
	aclUser   = 2
	aclGroup  = 3
	aclXattrs = 4
)

// A target begins with the kind of a file that has no data of its own, as Linux
// has it in st_mode (inode(7)).
const (
	modeFifo    = 0o010000
	modeChar    = 0o020000
	modeBlock   = 0o060000
	modeRegular = 0o100000 // a hard link
	modeLink    = 0o120000
)

// maxTarget is PATH_MAX of linux/limits.h.
const maxTarget = 4096

// unknownID is whose a file is when its account is not in the image, as in apk.
const unknownID = 65534

// xattrRecord begins the pax records that extended attributes become.
const xattrRecord = "SCHILY.xattr."

// unpack3 is Unpack for format 3: the values that openArchive3 checked say
// which files there are, in the order of the blocks of data.
func (a *Archive) unpack3(visit func(*tar.Header, io.Reader) error, fail func(error) error) error {
	s, err := adb.Open(io.NewSectionReader(a.data, 0, a.data.Size()))
	if err != nil {
		return fail(err)
	}
	defer s.Close()
	u := &unpacker3{stream: s, visit: visit, built: time.Unix(a.Info.BuildTime, 0)}
	root, err := a.root3()
	if err != nil {
		return fail(err)
	}
	paths, err := root.At(packagePaths).List()
	if err != nil {
		return fail(fmt.Errorf("paths: %w", err))
	}
	if err := u.advance(); err != nil {
		return fail(err)
	}
	for i := 1; i <= paths.Len(); i++ {
		if err := u.directory(i, paths.At(i)); err != nil {
			return fail(err)
		}
	}
	if !u.ended {
		return fail(errors.New("a block of data that belongs to no file"))
	}
	return nil
}

type unpacker3 struct {
	stream *adb.Stream // at the next block of data
	ended  bool        // there is none
	visit  func(*tar.Header, io.Reader) error
	built  time.Time
}

// advance goes to the next block of data.
func (u *unpacker3) advance() error {
	first := u.stream.Kind != adb.Data
	for {
		err := u.stream.Next()
		if err == io.EOF {
			u.ended = true
			return nil
		}
		if err != nil || u.stream.Kind == adb.Data {
			return err
		}
		if !first {
			return fmt.Errorf("a block of kind %s behind the data", u.stream.Kind)
		}
	}
}

// directory hands out a directory, which has no time but the package's, and its
// files.
func (u *unpacker3) directory(number int, v adb.Value) error {
	h, files, err := readDirectory3(v)
	if err != nil {
		return fmt.Errorf("paths[%d]: %w", number, err)
	}
	if h.Name != "" { // without a name it is the root, which is no package's
		h.ModTime = u.built
		if err := u.visit(h, strings.NewReader("")); err != nil {
			return err
		}
	}
	for i := 1; i <= files.Len(); i++ {
		f, sum, err := readFile3(h.Name, files.At(i))
		if err != nil {
			return fmt.Errorf("paths[%d]: files[%d]: %w", number, i, err)
		}
		if err := u.file(number, i, f, sum); err != nil {
			return err
		}
	}
	return nil
}

func readDirectory3(v adb.Value) (h *tar.Header, files adb.List, err error) {
	o, err := v.List()
	if err != nil {
		return nil, files, err
	}
	name, err := o.At(dirName).Bytes()
	if err != nil {
		return nil, files, fmt.Errorf("name: %w", err)
	}
	h = &tar.Header{Typeflag: tar.TypeDir, Name: string(name)}
	if h.Name != "" {
		if err := checkPath(h.Name); err != nil {
			return nil, files, err
		}
		if err := setACL(h, o.At(dirACL)); err != nil {
			return nil, files, fmt.Errorf("%q: acl: %w", h.Name, err)
		}
	}
	if files, err = o.At(dirFiles).List(); err != nil {
		err = fmt.Errorf("%q: files: %w", h.Name, err)
	}
	return h, files, err
}

// checkPath refuses what no honest package calls a file or a directory.
func checkPath(name string) error {
	if len(name) > maxTarget {
		return fmt.Errorf("a path of %d bytes, more than %d", len(name), maxTarget)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsRune(part, 0) {
			return fmt.Errorf("invalid path %q", name)
		}
	}
	return nil
}

// setACL sets mode, owner and extended attributes. Owners have names alone.
func setACL(h *tar.Header, v adb.Value) error {
	o, err := v.List()
	if err != nil {
		return err
	}
	mode, err := o.At(aclMode).Int()
	if err == nil && mode > 0o7777 {
		err = fmt.Errorf("%o is more than 7777", mode)
	}
	if err != nil {
		return fmt.Errorf("mode: %w", err)
	}
	h.Mode = int64(mode)
	for _, owner := range []struct {
		number int
		what   string
		name   *string
		id     *int
	}{{aclUser, "user", &h.Uname, &h.Uid}, {aclGroup, "group", &h.Gname, &h.Gid}} {
		if *owner.name, err = word(o.At(owner.number)); err != nil {
			return fmt.Errorf("%s: %w", owner.what, err)
		}
		if *owner.name != "root" {
			*owner.id = unknownID
		}
	}
	xattrs, err := o.At(aclXattrs).List()
	if err != nil {
		return fmt.Errorf("xattrs: %w", err)
	}
	for i := 1; i <= xattrs.Len(); i++ {
		b, err := xattrs.At(i).Bytes()
		if err != nil {
			return fmt.Errorf("xattrs[%d]: %w", i, err)
		}
		name, value, found := strings.Cut(string(b), "\x00")
		if !found || name == "" {
			return fmt.Errorf("xattrs[%d]: %.60q has no name", i, b)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrRecord+name] = value
	}
	return nil
}

// readFile3 returns the header of a file, and the digest of one with contents of
// its own.
func readFile3(dir string, v adb.Value) (*tar.Header, []byte, error) {
	o, err := v.List()
	if err != nil {
		return nil, nil, err
	}
	name, err := o.At(fileName).Bytes()
	if err == nil && strings.Contains(string(name), "/") {
		err = fmt.Errorf("invalid name %q", name)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("name: %w", err)
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: string(name)}
	if dir != "" {
		h.Name = dir + "/" + h.Name
	}
	if err := checkPath(h.Name); err != nil {
		return nil, nil, err
	}
	if err := setACL(h, o.At(fileACL)); err != nil {
		return nil, nil, fmt.Errorf("%q: acl: %w", h.Name, err)
	}
	mtime, err := o.At(fileMtime).Int()
	if err != nil {
		return nil, nil, fmt.Errorf("%q: mtime: %w", h.Name, err)
	}
	h.ModTime = time.Unix(int64(min(mtime, math.MaxUint32)), 0)
	target, err := o.At(fileTarget).Bytes()
	if err == nil && len(target) > 0 {
		err = setTarget(h, target)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%q: target: %w", h.Name, err)
	}
	if len(target) > 0 {
		return h, nil, nil // a hard link says size and digest again
	}
	size, err := o.At(fileSize).Int()
	if err == nil && size > math.MaxInt64 {
		err = fmt.Errorf("%d is more than %d", size, int64(math.MaxInt64))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%q: size: %w", h.Name, err)
	}
	h.Size = int64(size)
	sum, err := o.At(fileHash).Bytes()
	if err == nil && len(sum) != sha256.Size {
		err = fmt.Errorf("a digest of %d bytes, want the %d of a SHA-256", len(sum), sha256.Size)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%q: hash: %w", h.Name, err)
	}
	return h, sum, nil
}

// setTarget makes the header that of a link, a device or a pipe.
func setTarget(h *tar.Header, b []byte) error {
	if len(b) < 2 {
		return errors.New("no kind of file")
	}
	mode, b := binary.LittleEndian.Uint16(b), b[2:]
	switch mode {
	case modeRegular, modeLink:
		if len(b) == 0 || len(b) > maxTarget {
			return fmt.Errorf("a path of %d bytes, want 1 to %d", len(b), maxTarget)
		}
		if h.Linkname = string(b); mode == modeLink {
			h.Typeflag = tar.TypeSymlink
			return nil
		}
		// apk mkpkg calls a file in the root "./NAME".
		h.Typeflag, h.Linkname = tar.TypeLink, strings.TrimPrefix(h.Linkname, "./")
		return checkPath(h.Linkname)
	case modeFifo, modeChar, modeBlock:
		if len(b) != 8 {
			return fmt.Errorf("a device number of %d bytes, want 8", len(b))
		}
		h.Typeflag = map[uint16]byte{modeFifo: tar.TypeFifo, modeChar: tar.TypeChar, modeBlock: tar.TypeBlock}[mode]
		if mode != modeFifo {
			h.Devmajor, h.Devminor = device(binary.LittleEndian.Uint64(b))
		}
		return nil
	}
	return fmt.Errorf("unsupported kind of file %#o", mode)
}

// device takes a device number apart as Linux's C libraries do (makedev(3)).
func device(n uint64) (major, minor int64) {
	return int64(n>>8&0xfff | n>>32&^0xfff), int64(n&0xff | n>>12&0xffffff00)
}

// file hands out one file, with the next block of data where it has contents.
func (u *unpacker3) file(dir, number int, h *tar.Header, sum []byte) error {
	if h.Typeflag != tar.TypeReg {
		return u.visit(h, strings.NewReader(""))
	}
	c := &contents3{name: h.Name, left: h.Size, sum: sha256.New(), want: sum, r: strings.NewReader("")}
	if h.Size > 0 {
		if err := u.find(dir, number, h); err != nil {
			return err
		}
		c.r = u.stream
	}
	if err := u.visit(h, c); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		return err
	}
	if h.Size > 0 {
		return u.advance()
	}
	return nil
}

// find checks that the block of data is that of a file, whose numbers it begins
// with.
func (u *unpacker3) find(dir, number int, h *tar.Header) error {
	if u.ended {
		return fmt.Errorf("%q: no block of data for its %d bytes: %w", h.Name, h.Size, io.ErrUnexpectedEOF)
	}
	var b [8]byte
	if u.stream.Size != int64(len(b))+h.Size {
		return fmt.Errorf("%q: the block of data has %d bytes, want %d", h.Name, u.stream.Size, int64(len(b))+h.Size)
	}
	if _, err := io.ReadFull(u.stream, b[:]); err != nil {
		return fmt.Errorf("%q: %w", h.Name, err)
	}
	d, n := binary.LittleEndian.Uint32(b[:]), binary.LittleEndian.Uint32(b[4:])
	if int64(d) != int64(dir) || int64(n) != int64(number) {
		return fmt.Errorf("%q: the block of data is that of paths[%d].files[%d]", h.Name, d, n)
	}
	return nil
}

// contents3 reads a file and, at its end, compares its digest: whoever reads to
// io.EOF has what the package was signed with.
type contents3 struct {
	name string
	r    io.Reader
	left int64
	sum  hash.Hash
	want []byte
}

func (c *contents3) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.sum.Write(p[:n])
	c.left -= int64(n)
	if err != io.EOF {
		return n, err
	}
	if got := c.sum.Sum(nil); c.left != 0 || string(got) != string(c.want) {
		return n, fmt.Errorf("digest mismatch: the file %q has %s, want %s: the package was changed after it was signed",
			c.name, hex.EncodeToString(got), hex.EncodeToString(c.want))
	}
	return n, io.EOF
}
