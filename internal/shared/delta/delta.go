// Package delta makes and applies patches: what turns one file into another. A
// patch is made where there is much memory, and applied where there is little:
// the old file is read in place, and nothing that is kept grows with either
// file.
package delta

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// MaxFile bounds both files, bytes: what a suffix array of 32 bits reaches.
const MaxFile = 1<<31 - 1

// A patch is a head and four streams behind one another, each a frame of zstd:
//
//	pieces    for each: how far the place in the old file moves behind the last
//	          piece's end (signed), how many bytes are added to, how many are extra
//	runs      of differences: how many are zero, how many are not
//	values    the differences that are not zero
//	extras    bytes of the new file's own
//
// Differences are nearly all zero, and zstd codes the few others badly where they
// stand between: apart they take a sixth less (docs/decisions/0011-delta.md).
const (
	magic   = "pikelet-delta\x00"
	version = 1
	streams = 4
)

// Transform is what is done to the old file's bytes before they are compared,
// so that more of them are equal. What it does is part of the format: whatever
// changes it has a number of its own.
type Transform byte

// The transforms.
const (
	Plain  Transform = 0 // changes nothing
	Arm64  Transform = 1 // foresees addresses of programs for arm64, and Go's tables
	latest           = Arm64
)

// maxPieces bounds what a transform must know of a patch before it begins: 24
// bytes for each piece, twice.
const maxPieces = 1 << 18

// maxHead bounds a head, bytes: the magic, version and transform, and seven
// varints; maxParams what a transform wants to know of both files.
const (
	maxHead   = len(magic) + 2 + 7*binary.MaxVarintLen64
	maxParams = (1 + 2*(1+5*maxSegments+tableFields)) * binary.MaxVarintLen64
)

// maxWindow bounds what a decoder keeps of a stream, bytes: there are four.
const maxWindow = 4 << 20

// Error is a patch that is not one, or not for this file.
type Error struct{ what string }

// Error implements error.
func (e *Error) Error() string { return "the patch is damaged: " + e.what }

func damaged(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// Make returns a patch that turns old into new: the smallest of those it knows to
// make.
func Make(old, new []byte) ([]byte, error) {
	if len(new) > MaxFile {
		return nil, fmt.Errorf("a file of %d bytes; a patch is for %d at most", len(new), MaxFile)
	}
	foreseen, err := makeForeseen(old, new)
	if err != nil || foreseen != nil && len(foreseen) < len(new)/fine {
		return foreseen, err
	}
	order, err := suffixes(old)
	if err != nil {
		return nil, err
	}
	best, err := pack(Plain, nil, old, new, matches(old, new, order), func([]byte, int64, int64) {})
	if err != nil || foreseen == nil || len(best) <= len(foreseen) {
		return best, err
	}
	return foreseen, nil
}

// fine is what part of a file a patch may be for which no other is tried: that
// takes as long again.
const fine = 50

// makeForeseen makes a patch of programs for arm64; nil where they are none.
func makeForeseen(old, new []byte) ([]byte, error) {
	was, ok1 := programOf(old)
	is, ok2 := programOf(new)
	if !ok1 || !ok2 {
		return nil, nil
	}
	bare := masked(old, was)
	order, err := suffixes(bare)
	if err != nil {
		return nil, err
	}
	pieces := matches(bare, masked(new, is), order)
	if a, ok := functionsOf(old, was); ok {
		if b, ok := functionsOf(new, is); ok {
			pieces = byLists(byFunction(pieces, a, b), old, new, was, is)
		}
	}
	if len(pieces) > maxPieces {
		return nil, nil
	}
	return pack(Arm64, encodePrograms(was, is), old, new, pieces, newPredictor(was, is, bytes.NewReader(old), pieces).rewrite)
}

// pack writes a patch. rewrite is what its transform does to old bytes, given
// where they are in both files.
func pack(t Transform, params, old, new []byte, pieces []piece, rewrite func(b []byte, from, to int64)) ([]byte, error) {
	var parts [streams]bytes.Buffer
	number := func(to *bytes.Buffer, v uint64) { to.Write(binary.AppendUvarint(nil, v)) }
	var run runs
	var was []byte
	at, end := int64(0), int64(0)
	for _, p := range pieces {
		parts[0].Write(binary.AppendVarint(nil, p.from-end))
		number(&parts[0], uint64(p.add))
		number(&parts[0], uint64(p.extra))
		was = append(was[:0], old[p.from:p.from+p.add]...)
		rewrite(was, p.from, at)
		for i, b := range was {
			run.put(new[at+int64(i)]-b, &parts[1], &parts[2])
		}
		parts[3].Write(new[at+p.add : at+p.add+p.extra])
		at, end = at+p.add+p.extra, p.from+p.add
	}
	run.end(&parts[1])

	out := append([]byte(magic), version, byte(t))
	out = binary.AppendUvarint(out, uint64(len(old)))
	out = binary.AppendUvarint(out, uint64(len(new)))
	out = binary.AppendUvarint(out, uint64(len(params)))
	var packed [streams][]byte
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(maxWindow),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	for i := range parts {
		packed[i] = w.EncodeAll(parts[i].Bytes(), nil)
		out = binary.AppendUvarint(out, uint64(len(packed[i])))
	}
	out = append(out, params...)
	for _, p := range packed {
		out = append(out, p...)
	}
	return out, nil
}

// runs splits differences into runs, and those that are not zero.
type runs struct {
	zeros, others uint64
}

func (r *runs) put(d byte, runs, values *bytes.Buffer) {
	switch {
	case d != 0:
		r.others++
		values.WriteByte(d)
		return
	case r.others > 0:
		r.end(runs)
	}
	r.zeros++
}

func (r *runs) end(runs *bytes.Buffer) {
	if r.zeros == 0 && r.others == 0 {
		return
	}
	runs.Write(binary.AppendUvarint(binary.AppendUvarint(nil, r.zeros), r.others))
	r.zeros, r.others = 0, 0
}

// Head is what a patch says of itself.
type Head struct {
	Transform Transform
	Old, New  int64 // sizes of the files, bytes
	params    int64 // bytes of what the transform wants to know
	sizes     [streams]int64
	at        int64 // where params begin; the streams are behind
}

// ReadHead reads the head of a patch of so many bytes.
func ReadHead(patch io.ReaderAt, size int64) (Head, error) {
	r := bufio.NewReaderSize(io.NewSectionReader(patch, 0, min(size, int64(maxHead))), maxHead)
	b := make([]byte, len(magic)+2)
	if _, err := io.ReadFull(r, b); err != nil || string(b[:len(magic)]) != magic {
		return Head{}, damaged("bad magic")
	}
	if v := b[len(magic)]; v != version {
		return Head{}, fmt.Errorf("a patch of version %d; this program knows %d", v, version)
	}
	h := Head{Transform: Transform(b[len(magic)+1]), at: int64(len(b))}
	if h.Transform > latest {
		return Head{}, fmt.Errorf("a patch with transform %d; this program knows %d", h.Transform, latest)
	}
	for _, to := range []*int64{&h.Old, &h.New, &h.params, &h.sizes[0], &h.sizes[1], &h.sizes[2], &h.sizes[3]} {
		v, err := binary.ReadUvarint(r)
		if err != nil || v > MaxFile {
			return Head{}, damaged("invalid size")
		}
		*to = int64(v)
		h.at += int64(len(binary.AppendUvarint(nil, v)))
	}
	if h.params > int64(maxParams) || h.Transform == Plain && h.params > 0 {
		return Head{}, damaged("%d bytes of transform parameters", h.params)
	}
	end := h.at + h.params
	for _, n := range h.sizes {
		end += n
	}
	if end != size {
		return Head{}, damaged("%d bytes, want %d", size, end)
	}
	return h, nil
}

// Apply writes the new file that a patch makes of the old one. It keeps a few
// MiB, whatever the files' sizes are. What it writes is as good as the patch: the
// caller knows the new file's digest.
func Apply(w io.Writer, old io.ReaderAt, oldSize int64, patch io.ReaderAt, size int64) error {
	h, err := ReadHead(patch, size)
	if err != nil {
		return err
	}
	if h.Old != oldSize {
		return damaged("made for a file of %d bytes, not of %d", h.Old, oldSize)
	}
	rewrite, err := h.transform(patch, old)
	if err != nil {
		return err
	}
	var in [streams]*bufio.Reader
	at := h.at + h.params
	for i, n := range h.sizes {
		d, err := zstd.NewReader(io.NewSectionReader(patch, at, n), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(MaxFile))
		if err != nil {
			return damaged("stream %d: %v", i, err)
		}
		defer d.Close()
		in[i] = bufio.NewReaderSize(d, 16<<10)
		at += n
	}
	a := applier{h: h, w: w, old: old, pieces: in[0], runs: in[1], values: in[2], extras: in[3], buf: make([]byte, chunk)}
	if rewrite != nil {
		if err := a.know(rewrite); err != nil {
			return err
		}
	}
	if err := a.all(); err != nil {
		return err
	}
	for i, r := range in {
		if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
			return damaged("stream %d goes on behind the file's end", i)
		}
	}
	return nil
}

// transform reads what a patch's transform wants to know; nil for Plain.
func (h Head) transform(patch, old io.ReaderAt) (func(pieces []piece) *predictor, error) {
	if h.Transform == Plain {
		return nil, nil
	}
	b := make([]byte, h.params)
	if _, err := patch.ReadAt(b, h.at); err != nil {
		return nil, damaged("transform parameters: %v", err)
	}
	r := bytes.NewReader(b)
	was, is, err := decodePrograms(r, h.Old, h.New)
	if err != nil || r.Len() > 0 {
		return nil, errors.Join(damaged("trailing transform parameters"), err)
	}
	return func(pieces []piece) *predictor { return newPredictor(was, is, old, pieces) }, nil
}

// applier is a patch being applied.
type applier struct {
	h                            Head
	w                            io.Writer
	old                          io.ReaderAt
	pieces, runs, values, extras *bufio.Reader
	buf                          []byte
	zeros, others                uint64 // of the run that is under way
	done, end                    int64  // how far the new file is, and where the last piece ended in the old

	known   []piece // all of them, with a transform
	foresee *predictor
}

// next reads a piece.
func (a *applier) next() (piece, error) {
	move, err1 := binary.ReadVarint(a.pieces)
	add, err2 := binary.ReadUvarint(a.pieces)
	extra, err3 := binary.ReadUvarint(a.pieces)
	if err := errors.Join(err1, err2, err3); err != nil {
		return piece{}, damaged("pieces: %v", err)
	}
	left := uint64(a.h.New - a.done)
	if add > left || extra > left-add || add+extra == 0 {
		return piece{}, damaged("a piece of %d and %d bytes, where %d are left", add, extra, left)
	}
	// No sum can overflow: all of them are below MaxFile but this.
	if move < -MaxFile || move > MaxFile {
		return piece{}, damaged("a piece is outside of the old file")
	}
	p := piece{a.end + move, int64(add), int64(extra)}
	if a.end = p.from + p.add; p.from < 0 || a.end > a.h.Old {
		return piece{}, damaged("a piece is outside of the old file")
	}
	a.done += p.add + p.extra
	return p, nil
}

// know reads all pieces before the first is written.
func (a *applier) know(foresee func([]piece) *predictor) error {
	for a.done < a.h.New {
		p, err := a.next()
		if err != nil {
			return err
		}
		if len(a.known) == maxPieces {
			return damaged("more than %d pieces", maxPieces)
		}
		a.known = append(a.known, p)
	}
	a.foresee = foresee(a.known)
	return nil
}

func (a *applier) all() error {
	if a.foresee == nil {
		for a.done < a.h.New {
			at := a.done
			p, err := a.next()
			if err != nil {
				return err
			}
			if err := a.write(p, at); err != nil {
				return err
			}
		}
	}
	at := int64(0)
	for _, p := range a.known {
		if err := a.write(p, at); err != nil {
			return err
		}
		at += p.add + p.extra
	}
	if a.zeros != 0 || a.others != 0 {
		return damaged("more differences than bytes")
	}
	return nil
}

// write writes a piece, which comes to lie at a place of the new file.
func (a *applier) write(p piece, at int64) error {
	if err := a.add(p.from, p.add, at); err != nil {
		return err
	}
	return a.extra(p.extra)
}

// add writes bytes of the old file with the differences added.
func (a *applier) add(from, n, at int64) error {
	for n > 0 {
		part := a.buf[:min(n, int64(len(a.buf)))]
		if read, err := a.old.ReadAt(part, from); read < len(part) {
			return fmt.Errorf("reading the old file at byte %d: %w", from, err)
		}
		if a.foresee != nil {
			a.foresee.rewrite(part, from, at)
		}
		if err := a.differ(part); err != nil {
			return err
		}
		if _, err := a.w.Write(part); err != nil {
			return err
		}
		done := int64(len(part))
		from, at, n = from+done, at+done, n-done
	}
	return nil
}

// extra writes bytes of the new file's own.
func (a *applier) extra(n int64) error {
	for n > 0 {
		part := a.buf[:min(n, int64(len(a.buf)))]
		if _, err := io.ReadFull(a.extras, part); err != nil {
			return damaged("extras: %v", err)
		}
		if _, err := a.w.Write(part); err != nil {
			return err
		}
		n -= int64(len(part))
	}
	return nil
}

// differ adds the next differences to b.
func (a *applier) differ(b []byte) error {
	for len(b) > 0 {
		if a.zeros == 0 && a.others == 0 {
			var err1, err2 error
			a.zeros, err1 = binary.ReadUvarint(a.runs)
			a.others, err2 = binary.ReadUvarint(a.runs)
			if err := errors.Join(err1, err2); err != nil || a.zeros > MaxFile || a.others > MaxFile || a.zeros+a.others == 0 {
				return damaged("runs: %v", err)
			}
		}
		n := min(a.zeros, uint64(len(b)))
		b, a.zeros = b[n:], a.zeros-n
		for ; a.zeros == 0 && a.others > 0 && len(b) > 0; a.others-- {
			d, err := a.values.ReadByte()
			if err != nil {
				return damaged("values: %v", err)
			}
			b[0] += d
			b = b[1:]
		}
	}
	return nil
}
