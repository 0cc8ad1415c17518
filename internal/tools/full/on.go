//go:build full

package full

// Tests is set by go test -tags full.
const Tests = true
