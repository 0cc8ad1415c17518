package bootserver

import (
	"net/netip"
	"os"
	"strings"
)

// Neighbour returns the hardware address the kernel knows a neighbour by, in
// lower case with colons; "" where it knows none.
func Neighbour(ip netip.Addr) string {
	table, err := os.ReadFile("/proc/net/arp")
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(string(table), "\n") {
		// IP address, HW type, flags, HW address, mask, device
		if f := strings.Fields(line); len(f) == 6 && f[0] == ip.String() && f[2] != "0x0" {
			return strings.ToLower(f[3])
		}
	}
	return ""
}
