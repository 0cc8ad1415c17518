package dhcp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Frames sends UDP in frames that name their receiver's hardware address.
//
// An offer goes to an address that its receiver does not have yet, and that
// answers no ARP (RFC 2131 section 4.1). An ARP entry would work too, but the boot
// server uses that table as evidence of the sender of a request, and an entry made
// from the contents of a message would be no evidence.
type Frames struct {
	file  *os.File
	index int
}

// NewFrames opens a packet socket, which sends on one device and receives
// nothing. It takes CAP_NET_RAW; without it the error matches fs.ErrPermission.
func NewFrames(device string) (*Frames, error) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("opening a packet socket on %s: %w; run as root, or give the program CAP_NET_RAW", device, err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket on %s: %w", device, err)
	}
	return &Frames{file: os.NewFile(uintptr(fd), "frames"), index: i.Index}, nil
}

// Send sends one datagram to a hardware address.
func (f *Frames) Send(b []byte, from, to netip.AddrPort, mac net.HardwareAddr) error {
	at := &unix.SockaddrLinklayer{Protocol: etherTypeIPv4, Ifindex: f.index, Halen: uint8(len(mac))}
	if copy(at.Addr[:], mac) != len(mac) {
		return fmt.Errorf("sending to %v: a hardware address of %d bytes; want at most %d", mac, len(mac), len(at.Addr))
	}
	raw, err := f.file.SyscallConn()
	if err != nil {
		return err
	}
	packet, failed := datagram(b, from, to), error(nil)
	if err := raw.Control(func(fd uintptr) { failed = unix.Sendto(int(fd), packet, unix.MSG_DONTWAIT, at) }); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("sending to %v at %v: %w", to, mac, failed)
	}
	return nil
}

// Close closes the socket.
func (f *Frames) Close() error { return f.file.Close() }

// etherTypeIPv4 is in the order of the network, which sockets want it in.
const etherTypeIPv4 = unix.ETH_P_IP<<8&0xff00 | unix.ETH_P_IP>>8
