package vm

import (
	"errors"
	"io"
	"os"
)

// errHole says that only a hole is left of a file.
var errHole = errors.New("a hole up to the end")

// CopySparse copies a disk image without reading or writing its holes, where
// the system tells where they are.
func CopySparse(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.Truncate(st.Size()); err != nil {
		return err
	}
	for at := int64(0); at < st.Size(); {
		data, hole, err := nextData(in, at, st.Size())
		if errors.Is(err, errHole) {
			break
		}
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, data), io.NewSectionReader(in, data, hole-data)); err != nil {
			return err
		}
		at = hole
	}
	return out.Close()
}
