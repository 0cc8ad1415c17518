// Package sysfs reads the short texts below /sys and /proc.
package sysfs

import (
	"os"
	"strings"
)

// Read returns a file without the white space around its text; "" where it cannot
// be read.
func Read(name string) string {
	b, _ := os.ReadFile(name)
	return strings.TrimSpace(string(b))
}
