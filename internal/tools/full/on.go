//go:build full

// Package full reports whether tests do all they can.
package full

// Tests is set by go test -tags full.
const Tests = true
