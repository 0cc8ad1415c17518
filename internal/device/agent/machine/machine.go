// Package machine knows the hardware that the node runs on, as the firmware
// describes it in the device tree.
package machine

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/device/agent/sysfs"
	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// Firmware reads what the bootloader left in the device tree (docs/platform.md 2.3).
func Firmware() node.Firmware {
	f := node.Firmware{Model: strings.TrimRight(sysfs.Read("/proc/device-tree/model"), "\x00")}
	if b, err := os.ReadFile("/proc/device-tree/chosen/bootloader/build-timestamp"); err == nil && len(b) == 4 {
		f.Bootloader = int64(binary.BigEndian.Uint32(b))
	}
	return f
}

// This returns what tells this machine from others.
func This() nodeconfig.Machine {
	m := nodeconfig.Machine{Serial: Serial(), MAC: MAC(), Board: Board()}
	words, _ := os.ReadFile("/proc/cmdline")
	m.Name = cmdline.Value(words, "pikelet.node")
	return m
}

// Serial returns the board's serial number, or "" where it has none.
func Serial() string {
	b, err := os.ReadFile("/proc/device-tree/serial-number")
	if err != nil {
		return ""
	}
	return strings.ToLower(strings.TrimRight(string(b), "\x00\n"))
}

// MAC returns the address of the board's own Ethernet, from the device tree:
// drivers may not be loaded yet (docs/platform.md 4).
func MAC() string {
	alias, err := os.ReadFile("/proc/device-tree/aliases/ethernet0")
	if err != nil {
		return ""
	}
	for _, name := range []string{"local-mac-address", "mac-address"} {
		b, err := os.ReadFile("/proc/device-tree" + strings.TrimRight(string(alias), "\x00") + "/" + name)
		if err == nil && len(b) == 6 {
			return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5])
		}
	}
	return ""
}

// Board returns which board this is, by what its device tree says it is
// compatible with; "" for one that is not known.
func Board() string {
	b, err := os.ReadFile("/proc/device-tree/compatible")
	if err != nil {
		return ""
	}
	return boards.OfCompatible(strings.Split(string(b), "\x00"))
}
