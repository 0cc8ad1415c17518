//go:build !linux

package dhcpconn

import (
	"errors"
	"net"
	"net/netip"
)

var errLinux = errors.New("serving boots works on Linux only")

// Listen is there on Linux only.
func Listen(string, int) (net.PacketConn, error) { return nil, errLinux }

// Frames is there on Linux only.
type Frames struct{}

// NewFrames is there on Linux only.
func NewFrames(string) (*Frames, error) { return nil, errLinux }

// Send is there on Linux only.
func (*Frames) Send([]byte, netip.AddrPort, netip.AddrPort, net.HardwareAddr) error { return errLinux }

// Close is there on Linux only.
func (*Frames) Close() error { return errLinux }
