//go:build !linux

package builder

import "os"

// writeUncached writes to a file data that will not be read soon.
func writeUncached(f *os.File, b []byte, at int64) error {
	_, err := f.WriteAt(b, at)
	return err
}
