//go:build !linux && !darwin && !freebsd

package squashfs

import "os"

// nextData takes every byte of a file as there.
func nextData(_ *os.File, at, size int64) (data, end int64) { return at, size }
