package patch

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/internal/shared/delta"
)

// maxBased bounds old and new file of the method based, bytes: its decoder has
// both in memory. For larger ones patched is smaller anyway
// (docs/decisions/0011-delta.md).
const maxBased = 2 << 20

// smallest returns the smallest of what makes new of old; old is nil where
// there is none.
func smallest(old, new []byte) (how method, data []byte, err error) {
	if old != nil {
		if bytes.Equal(old, new) {
			return same, nil, nil
		}
		how = patched
		if data, err = delta.Make(old, new); err != nil {
			return 0, nil, err
		}
		if len(old) <= maxBased && len(new) <= maxBased {
			b, err := encodeBased(old, new)
			if err != nil {
				return 0, nil, err
			}
			if len(b) < len(data) {
				how, data = based, b
			}
		}
		// What is a twentieth of the file is not beaten by no old file at all.
		if len(data) < len(new)/20 {
			return how, data, nil
		}
	}
	b, err := encodeWhole(new)
	if err != nil {
		return 0, nil, err
	}
	if old == nil || len(b) <= len(data) {
		return whole, b, nil
	}
	return how, data, nil
}

// dictID is the number of a dictionary that has none: what klauspost/compress
// puts into frames, and asks for.
const dictID = 1

func encodeBased(old, new []byte) ([]byte, error) {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(maxWindow),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithEncoderDictRaw(dictID, old))
	if err != nil {
		return nil, err
	}
	defer w.Close()
	return w.EncodeAll(new, nil), nil
}

// decode writes a file that a method makes. data is what the patch has of it, old
// what it is made of, if it is made of anything.
func (c change) decode(w io.Writer, data *io.SectionReader, old io.ReaderAt, oldSize int64) error {
	out := &exactly{w: w, left: c.Size}
	var err error
	switch c.How {
	case same:
		_, err = io.Copy(out, io.NewSectionReader(old, 0, oldSize))
	case whole:
		err = decompress(out, data, nil)
	case based:
		if oldSize > maxBased || c.Size > maxBased {
			return damaged("a dictionary of %d bytes for %d", oldSize, c.Size)
		}
		dict := make([]byte, oldSize)
		if _, err := io.ReadFull(io.NewSectionReader(old, 0, oldSize), dict); err != nil {
			return fmt.Errorf("reading the old file: %w", err)
		}
		err = decompress(out, data, dict)
	case patched:
		err = delta.Apply(out, old, oldSize, data, data.Size())
	}
	if err == nil && out.left != 0 {
		err = damaged("a file is %d bytes short of %d", out.left, c.Size)
	}
	return err
}

func decompress(w io.Writer, data io.Reader, dict []byte) error {
	options := []zstd.DOption{zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow)}
	if dict != nil {
		options = append(options, zstd.WithDecoderDictRaw(dictID, dict))
	}
	r, err := zstd.NewReader(data, options...)
	if err != nil {
		return damaged("%v", err)
	}
	defer r.Close()
	_, err = r.WriteTo(w)
	return err
}

// exactly takes so many bytes and no more.
type exactly struct {
	w    io.Writer
	left int64
}

// Write implements io.Writer.
func (e *exactly) Write(b []byte) (int, error) {
	if int64(len(b)) > e.left {
		return 0, damaged("a file is larger than it says")
	}
	e.left -= int64(len(b))
	return e.w.Write(b)
}
