//go:build !linux

package bootserver

import "net/netip"

// Neighbour is there on Linux only.
func Neighbour(netip.Addr) string { return "" }
