//go:build !unix

package vm

import "os"

// nextData takes everything for data: this system does not say.
func nextData(_ *os.File, at, size int64) (data, hole int64, err error) { return at, size, nil }
