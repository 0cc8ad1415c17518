//go:build !linux

package netboot

import (
	"errors"
	"net"
	"net/netip"
)

// ListenDHCP is there on Linux only.
func ListenDHCP(string) (net.PacketConn, error) {
	return nil, errors.New("serving boots works on Linux only")
}

// Neighbour is there on Linux only.
func Neighbour(netip.Addr) string { return "" }
