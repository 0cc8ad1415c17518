// Command pikelet-init is /init of every image.
package main

import "github.com/pikelet-os/pikelet/initramfs"

func main() { initramfs.Main() }
