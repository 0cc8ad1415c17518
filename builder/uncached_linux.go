package builder

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// dontCache is RWF_DONTCACHE of linux/fs.h, since 6.14: what is written leaves
// the page cache as soon as it is on the disk.
const dontCache = 0x80

// writeUncached writes to a file data that will not be read soon. Where the kernel
// or the file system does not know how, it is an ordinary write.
func writeUncached(f *os.File, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pwritev2(int(f.Fd()), [][]byte{b}, at, dontCache)
		switch {
		case err == unix.EINTR:
			continue
		case errors.Is(err, errors.ErrUnsupported) || err == unix.EINVAL:
			_, err := f.WriteAt(b, at)
			return err
		case err != nil:
			return &os.PathError{Op: "write", Path: f.Name(), Err: err}
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}
