// Package dhcpconn opens sockets of DHCP, which hear and send broadcasts on one
// device, whether that has an address or not.
//
// An offer goes to an address that its receiver does not have yet, and that
// answers no ARP (RFC 2131 4.1). Frames therefore writes whole IP packets to a
// hardware address. An ARP entry would do too, but the boot server takes that
// table as evidence of who sent a request, and an entry made from what a message
// says of itself is none.
package dhcpconn

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Listen opens a UDP socket on a port of one device. Others may have the same
// port, such as the server beside which a proxy stands.
func Listen(device string, port int) (net.PacketConn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "dhcp")
	defer f.Close() // FilePacketConn has its own
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.BindToDevice(fd, device),
		unix.Bind(fd, &unix.SockaddrInet4{Port: port}),
	); err != nil {
		return nil, fmt.Errorf("opening a socket on %s: %w", device, err)
	}
	return net.FilePacketConn(f)
}
