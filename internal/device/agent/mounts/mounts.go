// Package mounts lists the mounts of the node and makes its writable paths
// writable.
package mounts

import (
	"os"
	"slices"
	"strings"
)

// Mount is one mount this process sees.
type Mount struct {
	Path   string
	Shared bool // others see what is mounted below it
}

// List returns all mounts in their order (proc_pid_mountinfo(5)).
func List() ([]Mount, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var list []Mount
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 4 {
			list = append(list, Mount{Unescape(f[4]), strings.Contains(line, " shared:")})
		}
	}
	return list, nil
}

// Unescape undoes what the kernel does to blanks in mountinfo.
func Unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// Mounted reports whether something is mounted on a directory.
func Mounted(path string) bool {
	list, err := List()
	return err == nil && slices.ContainsFunc(list, func(m Mount) bool { return m.Path == path })
}
