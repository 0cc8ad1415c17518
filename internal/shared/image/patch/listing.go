package patch

import (
	"archive/tar"
	"bytes"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
)

// kinds are what begins a line of a listing, and what tar calls it.
var kinds = map[byte]byte{
	'f': tar.TypeReg,
	'd': tar.TypeDir,
	'l': tar.TypeSymlink,
	'h': tar.TypeLink,
	'c': tar.TypeChar,
	'b': tar.TypeBlock,
	'p': tar.TypeFifo,
}

var letters = func() map[byte]byte {
	m := map[byte]byte{}
	for k, v := range kinds {
		m[v] = k
	}
	return m
}()

// listing returns a tree as text, a line for each name in the order of the
// image: what it is, its mode, owner and group, its time, counted from the
// image's, its size or number, its name, what it links to, and its extended
// attributes. It is part of the format: desk and node make the same of a root.
func listing(r *squashfs.Reader) []byte {
	var b bytes.Buffer
	for _, e := range r.Entries {
		fmt.Fprintf(&b, "%c %o %d %d %d", letters[e.Typeflag], e.Mode&0o7777, e.Uid, e.Gid, e.ModTime.Unix()-r.Options.Time.Unix())
		switch e.Typeflag {
		case tar.TypeReg:
			fmt.Fprintf(&b, " %d", e.Size)
		case tar.TypeChar, tar.TypeBlock:
			fmt.Fprintf(&b, " %d", e.Devmajor<<32|e.Devminor)
		default:
			b.WriteString(" 0")
		}
		fmt.Fprintf(&b, " %s %s", strconv.Quote(e.Name), strconv.Quote(e.Linkname))
		var keys []string
		for k := range e.PAXRecords {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			fmt.Fprintf(&b, " %s %s", strconv.Quote(k), strconv.Quote(e.PAXRecords[k]))
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// parseListing reads the listing of an image of a time. Entries have no
// contents yet.
func parseListing(text []byte, at time.Time) ([]squashfs.Entry, error) {
	var list []squashfs.Entry
	for n := 1; len(text) > 0; n++ {
		line, rest, ok := bytes.Cut(text, []byte("\n"))
		if !ok || len(line) == 0 || n > maxChanges {
			return nil, damaged("line %d of the listing", n)
		}
		text = rest
		e, err := parseLine(string(line), at)
		if err != nil {
			return nil, damaged("line %d of the listing: %v", n, err)
		}
		list = append(list, e)
	}
	return list, nil
}

func parseLine(line string, at time.Time) (squashfs.Entry, error) {
	var number [5]int64 // mode, owner, group, time, size
	kind, ok := kinds[line[0]]
	rest, found := strings.CutPrefix(line[1:], " ")
	if !ok || !found {
		return squashfs.Entry{}, fmt.Errorf("unsupported kind of file %q", line[0])
	}
	for i := range number {
		var field string
		field, rest, _ = strings.Cut(rest, " ")
		base := 10
		if i == 0 {
			base = 8
		}
		v, err := strconv.ParseInt(field, base, 64)
		if err != nil {
			return squashfs.Entry{}, err
		}
		number[i] = v
	}
	var texts []string
	for rest != "" {
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return squashfs.Entry{}, err
		}
		text, err := strconv.Unquote(quoted)
		if err != nil {
			return squashfs.Entry{}, err
		}
		texts = append(texts, text)
		rest = strings.TrimPrefix(rest[len(quoted):], " ")
	}
	if len(texts) < 2 || len(texts)%2 != 0 {
		return squashfs.Entry{}, fmt.Errorf("got %d names and attributes, want an even number from 2", len(texts))
	}
	h := &tar.Header{
		Typeflag: kind,
		Mode:     number[0] & 0o7777,
		Uid:      int(uint32(number[1])),
		Gid:      int(uint32(number[2])),
		ModTime:  at.Add(time.Duration(number[3]) * time.Second),
		Name:     texts[0],
		Linkname: texts[1],
	}
	switch kind {
	case tar.TypeReg:
		if h.Size = number[4]; h.Size < 0 {
			return squashfs.Entry{}, fmt.Errorf("invalid size: %d bytes", h.Size)
		}
	case tar.TypeChar, tar.TypeBlock:
		h.Devmajor, h.Devminor = number[4]>>32, number[4]&0xffffffff
	}
	for i := 2; i < len(texts); i += 2 {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[texts[i]] = texts[i+1]
	}
	if path.Clean("/"+h.Name) == "/" && kind != tar.TypeDir {
		return squashfs.Entry{}, fmt.Errorf("invalid name %q", h.Name)
	}
	return squashfs.Entry{Header: h}, nil
}
