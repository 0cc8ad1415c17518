package apk

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha1" // #nosec: the identity of a package is a SHA-1
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/pikelet-os/pikelet/layers/apk/adb"
	"github.com/pikelet-os/pikelet/layers/tarball"
)

// File is one file of a package to be written.
type File struct {
	*tar.Header
	Open func() (io.ReadCloser, error)
}

// newGzipReader opens one gzip member.
func newGzipReader(r io.Reader) (*gzip.Reader, error) {
	gz, err := gzip.NewReader(bufio.NewReader(r))
	if err != nil {
		return nil, fmt.Errorf("not gzip: %w", err)
	}
	return gz, nil
}

// countingReader counts what a gzip reader takes, byte by byte where it must:
// the only way to know where a member ends.
type countingReader struct {
	r *bufio.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *countingReader) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// memberEnd returns how many bytes of r its first gzip member takes, whose
// contents are at most limit bytes.
func memberEnd(r io.Reader, limit int64) (int64, error) {
	c := &countingReader{r: bufio.NewReader(r)}
	gz, err := gzip.NewReader(c)
	if err != nil {
		return 0, fmt.Errorf("not gzip: %w", err)
	}
	defer gz.Close()
	gz.Multistream(false)
	n, err := io.Copy(io.Discard, io.LimitReader(gz, limit+1))
	if err != nil {
		return 0, err
	}
	if n > limit {
		return 0, fmt.Errorf("a gzip member unpacks to more than %d bytes", limit)
	}
	return c.n, nil
}

// splitMember cuts the first gzip member off b.
func splitMember(b []byte, limit int64) (member, rest []byte, err error) {
	n, err := memberEnd(bytes.NewReader(b), limit)
	if err != nil {
		return nil, nil, err
	}
	return b[:n], b[n:], nil
}

// Archive is an open .apk whose signature, identity and control part are
// checked. Its data is checked while it is unpacked.
type Archive struct {
	Info    *Package
	Scripts map[string][]byte // by name, ".post-install" and the like

	name     string
	data     *io.SectionReader // all of a package of format 3
	datahash string            // of format 2
	values   []byte            // of format 3, nil otherwise
}

// OpenArchive checks a package of either format: signed by a key of the ring,
// and the very one the index means. want.Identity empty takes any. It returns
// ErrSignature for one without a valid signature.
func OpenArchive(r io.ReaderAt, size int64, want *Package, keys Keyring) (*Archive, error) {
	fail := func(err error) (*Archive, error) {
		return nil, fmt.Errorf("package %s: %w", want, err)
	}
	var head [3]byte
	if n, _ := r.ReadAt(head[:], 0); adb.Is(head[:n]) {
		a, err := openArchive3(io.NewSectionReader(r, 0, size), want, keys)
		if err != nil {
			return fail(err)
		}
		return a, nil
	}
	signEnd, err := memberEnd(io.NewSectionReader(r, 0, size), maxSign)
	if err != nil {
		return fail(err)
	}
	controlSize, err := memberEnd(io.NewSectionReader(r, signEnd, size-signEnd), maxControl)
	if err != nil {
		return fail(err)
	}
	sign, control := make([]byte, signEnd), make([]byte, controlSize)
	if _, err := r.ReadAt(sign, 0); err != nil {
		return fail(err)
	}
	if _, err := r.ReadAt(control, signEnd); err != nil {
		return fail(err)
	}
	if err := keys.verify(sign, control); err != nil {
		return fail(err)
	}
	sum, long := sha1.Sum(control), sha256.Sum256(control) // #nosec: format
	identity, err := checkIdentity(want.Identity, identityOf(sum[:]), identityOf(long[:]), identityOf(long[:shortDigest]))
	if err != nil {
		return fail(err)
	}
	files, err := readTar(control, maxControl)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fail(err)
	}
	a := &Archive{name: want.String(), Scripts: map[string][]byte{},
		data: io.NewSectionReader(r, signEnd+controlSize, size-signEnd-controlSize)}
	if a.Info, a.datahash, err = parsePkgInfo(files[".PKGINFO"]); err != nil {
		return fail(err)
	}
	a.Info.Identity, a.Info.Size, a.Info.Repository = identity, size, want.Repository
	if a.Info.Name != want.Name || a.Info.Version != want.Version {
		return fail(fmt.Errorf("the .PKGINFO names %s", a.Info))
	}
	for name, b := range files {
		if name != ".PKGINFO" {
			a.Scripts[name] = b
		}
	}
	return a, nil
}

// Unpack hands every file of the package to visit, with a reader over its
// contents, and then checks the hash of all of it. What visit was given
// counts for nothing when Unpack fails. What has a name with a leading dot in
// the root of a package of format 2 is passed over, as apk does, which keeps
// those names for the package's own control files.
func (a *Archive) Unpack(visit func(*tar.Header, io.Reader) error) error {
	fail := func(err error) error { return fmt.Errorf("package %s: %w", a.name, err) }
	if a.values != nil {
		return a.unpack3(visit, fail)
	}
	sum := sha256.New()
	raw := io.TeeReader(io.NewSectionReader(a.data, 0, a.data.Size()), sum)
	gz, err := newGzipReader(raw)
	if err != nil {
		return fail(err)
	}
	defer gz.Close()
	err = tarball.Each(gz, "package "+a.name, func(h *tar.Header, r io.Reader) error {
		if strings.HasPrefix(path.Clean("/"+h.Name), "/.") {
			return nil
		}
		if err := visit(h, r); err != nil {
			return fail(err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, gz); err != nil {
		return fail(err)
	}
	if _, err := io.Copy(io.Discard, raw); err != nil {
		return fail(err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != a.datahash {
		return fail(fmt.Errorf("digest mismatch: the files have %s, want %s: the package was changed after it was signed", got, a.datahash))
	}
	return nil
}

// parsePkgInfo reads a .PKGINFO: "key = value" lines (docs/platform.md 5.2).
func parsePkgInfo(b []byte) (*Package, string, error) {
	p := &Package{}
	var datahash string
	for i, line := range strings.Split(string(b), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, " = ")
		if !ok {
			return nil, "", fmt.Errorf(".PKGINFO:%d: got %q, want key = value", i+1, line)
		}
		if key == "datahash" {
			datahash = value
		}
		if err := p.setByName(key, value); err != nil {
			return nil, "", fmt.Errorf(".PKGINFO:%d: %w", i+1, err)
		}
	}
	if p.Name == "" || p.Version == "" {
		return nil, "", errors.New("the .PKGINFO names no package")
	}
	if len(datahash) != 64 {
		return nil, "", errors.New("the .PKGINFO has no datahash: packages older than apk-tools 2.0 are unsupported")
	}
	return p, datahash, nil
}

func (p *Package) encodePkgInfo(datahash string) []byte {
	var b bytes.Buffer
	field := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s = %s\n", key, value)
		}
	}
	field("pkgname", p.Name)
	field("pkgver", p.Version)
	field("pkgdesc", p.Description)
	field("url", p.URL)
	field("builddate", strconv.FormatInt(p.BuildTime, 10))
	field("size", strconv.FormatInt(p.Installed, 10))
	field("arch", p.Arch)
	field("origin", p.Origin)
	field("maintainer", p.Maintainer)
	if p.ProviderPriority != 0 {
		field("provider_priority", strconv.Itoa(p.ProviderPriority))
	}
	field("license", p.License)
	for _, d := range p.Depends {
		field("depend", d.String())
	}
	for _, d := range p.Provides {
		field("provides", d.String())
	}
	if len(p.InstallIf) > 0 {
		field("install_if", joinDeps(p.InstallIf))
	}
	field("datahash", datahash)
	return b.Bytes()
}

// WritePackage writes a signed package of files, which it sorts by name, and
// returns its index record. p's Identity, Size and Installed are filled in.
func WritePackage(w io.Writer, p Package, files []File, key *Key) (*Package, error) {
	fail := func(err error) (*Package, error) { return nil, fmt.Errorf("writing package %s: %w", p.String(), err) }
	sort.Slice(files, func(i, j int) bool { return files[i].Name < files[j].Name })
	var data bytes.Buffer
	p.Installed, p.Size = 0, 0
	gz, err := gzip.NewWriterLevel(&data, gzip.BestSpeed)
	if err != nil {
		return fail(err)
	}
	tw := tar.NewWriter(gz)
	for _, f := range files {
		if err := writeFile(tw, f); err != nil {
			return fail(fmt.Errorf("%s: %w", f.Name, err))
		}
		p.Installed += f.Size
	}
	if err := tw.Close(); err != nil {
		return fail(err)
	}
	if err := gz.Close(); err != nil {
		return fail(err)
	}
	sum := sha256.Sum256(data.Bytes())
	control, err := gzipTar([]tarFile{{".PKGINFO", p.encodePkgInfo(hex.EncodeToString(sum[:]))}}, false)
	if err != nil {
		return fail(err)
	}
	sign, err := key.sign(control)
	if err != nil {
		return fail(err)
	}
	id := sha1.Sum(control) // #nosec: format
	p.Identity = identityOf(id[:])
	for _, part := range [][]byte{sign, control, data.Bytes()} {
		n, err := w.Write(part)
		if err != nil {
			return fail(err)
		}
		p.Size += int64(n)
	}
	return &p, nil
}

// ChecksumRecord is the pax record with the SHA-1 of a file's contents or a
// link's target that every file of a package of format 2 has (docs/platform.md
// 5.2).
const ChecksumRecord = "APK-TOOLS.checksum.SHA1"

// writeFile adds one file with the checksum apk-tools wants of files and
// links (docs/platform.md 5.2). A file is read twice: its checksum stands
// before it.
func writeFile(tw *tar.Writer, f File) error {
	h := *f.Header
	h.Format = tar.FormatPAX
	sum := sha1.New() // #nosec: format
	switch h.Typeflag {
	case tar.TypeReg:
		if err := copyFile(sum, f); err != nil {
			return err
		}
	case tar.TypeSymlink:
		io.WriteString(sum, h.Linkname)
	}
	if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeSymlink {
		records := map[string]string{ChecksumRecord: hex.EncodeToString(sum.Sum(nil))}
		for k, v := range h.PAXRecords {
			records[k] = v
		}
		h.PAXRecords = records
	}
	if err := tw.WriteHeader(&h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeReg {
		return copyFile(tw, f)
	}
	return nil
}

func copyFile(w io.Writer, f File) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, r)
	return err
}
