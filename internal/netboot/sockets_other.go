//go:build !linux

package netboot

import "net/netip"

// Neighbour is there on Linux only.
func Neighbour(netip.Addr) string { return "" }
