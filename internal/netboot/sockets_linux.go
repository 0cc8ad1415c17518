package netboot

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
)

// ListenDHCP opens the socket of a DHCP server on one device only.
func ListenDHCP(device string) (net.PacketConn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "dhcp")
	defer f.Close() // FilePacketConn has its own
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), // beside a proxied server on this machine
		unix.BindToDevice(fd, device),
		unix.Bind(fd, &unix.SockaddrInet4{Port: dhcpv4.ServerPort}),
	); err != nil {
		return nil, err
	}
	return net.FilePacketConn(f)
}

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
