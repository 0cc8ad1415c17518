// Package patch makes and applies patches of whole images: what turns the files
// of a slot of one release into those of another. What is the same in both costs
// nothing, and what changed is carried as what changed of it.
//
// The root is not patched as the file it is: its blocks are compressed. Its tree
// is, file by file, and whoever applies the patch writes the root anew with the
// builder's own writer, into the very bytes that were signed. Kernel and
// initramfs are unpacked, patched and packed again in the same way.
package patch

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// A patch is magic, a version, the length of its head as a uvarint, the head,
// which is JSON compressed with zstd, and the data of all changes behind one
// another.
const (
	magic   = "pikelet-patch\x00"
	version = 1
)

// Limits on what is read of a patch: bytes of the head as it comes and
// decompressed, of the listing of a tree, and files that change.
const (
	maxPacked  = 8 << 20
	maxHead    = 64 << 20
	maxListing = 64 << 20
	maxChanges = 1 << 20
)

// head says what the data is.
type head struct {
	Packing int      `json:"packing"` // generation of internal/shared/recompress
	Files   []packed `json:"files,omitempty"`
	Root    *root    `json:"root,omitempty"`
}

// packed is a file of the slot that changed, but for the root.
type packed struct {
	Name   string `json:"name"`
	Base   string `json:"base,omitempty"`   // the old slot's file it is made of
	Form   string `json:"form,omitempty"`   // how both are packed; the change is of what is in them
	Inside int64  `json:"inside,omitempty"` // bytes in the packed base
	Change change `json:"change"`
}

// root is what changed of the root.
type root struct {
	Super   []byte   `json:"super"`   // its first bytes, which are written last
	Listing change   `json:"listing"` // of the text of the tree
	Changes []change `json:"changes"` // of its files, in the order of the listing
}

// change is a file that is not what it was: its number in the new listing and
// that of its base in the old one (-1 for none), how it is made, and how many
// bytes of the data that takes. As JSON it is a list of these four, and of how
// large the file is.
type change struct {
	New, Old int64
	How      method
	Data     int64
	Size     int64

	at int64 // where the data begins
}

// method is how a file is made of another.
type method byte

// The methods.
const (
	same    method = 0 // it is another
	whole   method = 1 // a frame of zstd
	based   method = 2 // a frame of zstd whose dictionary is the other
	patched method = 3 // a patch of internal/shared/delta
	methods        = 4
)

// MarshalJSON implements json.Marshaler.
func (c change) MarshalJSON() ([]byte, error) {
	return json.Marshal([5]int64{c.New, c.Old, int64(c.How), c.Data, c.Size})
}

// UnmarshalJSON implements json.Unmarshaler.
func (c *change) UnmarshalJSON(b []byte) error {
	var v []int64
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	if len(v) != 5 || v[2] < 0 || v[2] >= methods || v[0] < 0 || v[1] < -1 || v[3] < 0 || v[4] < 0 {
		return errors.New("invalid change")
	}
	*c = change{New: v[0], Old: v[1], How: method(v[2]), Data: v[3], Size: v[4]}
	return nil
}

// ErrDamaged is returned for what is not a patch, or is not one between the images
// that were given.
var ErrDamaged = errors.New("the patch is damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// encode returns what comes before the data.
func (h *head) encode() ([]byte, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	b, err := encodeWhole(text)
	if err != nil {
		return nil, err
	}
	out := append([]byte(magic), version)
	out = binary.AppendUvarint(out, uint64(len(b)))
	return append(out, b...), nil
}

// decodeHead reads the head of a patch of so many bytes, and finds where the
// data of each change begins.
func decodeHead(r io.ReaderAt, size int64) (*head, error) {
	first := make([]byte, min(size, int64(len(magic)+1+binary.MaxVarintLen64)))
	if _, err := r.ReadAt(first, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading a patch: %w", err)
	}
	if !bytes.HasPrefix(first, []byte(magic)) || len(first) < len(magic)+2 {
		return nil, damaged("wrong magic")
	}
	if v := first[len(magic)]; v != version {
		return nil, fmt.Errorf("unsupported version of a patch: got %d, want %d", v, version)
	}
	n, used := binary.Uvarint(first[len(magic)+1:])
	at := int64(len(magic) + 1 + used)
	if used <= 0 || n > maxPacked || int64(n) > size-at {
		return nil, damaged("a head of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := r.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading a patch: %w", err)
	}
	text, err := decodeWhole(b, maxHead)
	if err != nil {
		return nil, damaged("reading the head: %v", err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	h := &head{}
	if err := d.Decode(h); err != nil {
		return nil, damaged("reading the head: %v", err)
	}
	if err := h.place(at+int64(n), size); err != nil {
		return nil, err
	}
	return h, nil
}

// all returns all changes, in the order of their data.
func (h *head) all() []*change {
	var list []*change
	for i := range h.Files {
		list = append(list, &h.Files[i].Change)
	}
	if h.Root != nil {
		list = append(list, &h.Root.Listing)
		for i := range h.Root.Changes {
			list = append(list, &h.Root.Changes[i])
		}
	}
	return list
}

// place finds where the data of each change begins, and checks that the data is
// all of the rest.
func (h *head) place(at, end int64) error {
	list := h.all()
	if len(list) > maxChanges {
		return damaged("more than %d changes", maxChanges)
	}
	for _, c := range list {
		if c.Data > end-at {
			return damaged("truncated data")
		}
		c.at = at
		at += c.Data
	}
	if at != end {
		return damaged("trailing data")
	}
	for _, f := range h.Files {
		if f.Inside < 0 || f.Inside > maxUnpacked {
			return damaged("%s has %d bytes inside", f.Base, f.Inside)
		}
	}
	if h.Root == nil {
		return nil
	}
	for i, c := range h.Root.Changes {
		if i > 0 && h.Root.Changes[i-1].New >= c.New {
			return damaged("changes out of order")
		}
	}
	if h.Root.Listing.Size > maxListing {
		return damaged("a listing of %d bytes", h.Root.Listing.Size)
	}
	return nil
}

// maxWindow bounds what a decoder keeps, bytes.
const maxWindow = 8 << 20

// encodeWhole compresses what no old file helps with.
func encodeWhole(b []byte) ([]byte, error) {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(maxWindow),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	defer w.Close()
	return w.EncodeAll(b, nil), nil
}

// decodeWhole is the other way round, for what is small.
func decodeWhole(b []byte, most int64) ([]byte, error) {
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow),
		zstd.WithDecoderMaxMemory(uint64(most)))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.DecodeAll(b, nil)
}
