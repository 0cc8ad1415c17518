//go:build !linux

package dhcp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

var errLinux = fmt.Errorf("giving addresses: %w on this operating system", errors.ErrUnsupported)

// Frames is supported on Linux only.
type Frames struct{}

// NewFrames returns an error that matches errors.ErrUnsupported.
func NewFrames(string) (*Frames, error) { return nil, errLinux }

// Send returns an error that matches errors.ErrUnsupported.
func (*Frames) Send([]byte, netip.AddrPort, netip.AddrPort, net.HardwareAddr) error { return errLinux }

// Close does nothing.
func (*Frames) Close() error { return nil }
