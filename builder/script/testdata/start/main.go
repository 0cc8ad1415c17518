// Command start stands for each command of a busybox for arm64 in a root that the
// tests change to: it runs that busybox by qemu-user, under the name it was called by.
package main

import (
	"os"
	"syscall"
)

func main() {
	args := append([]string{"qemu", "-0", os.Args[0], "/judge/busybox"}, os.Args[1:]...)
	if err := syscall.Exec("/judge/qemu", args, os.Environ()); err != nil {
		os.Stderr.WriteString("start: " + err.Error() + "\n")
		os.Exit(126)
	}
}
