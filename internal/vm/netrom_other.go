//go:build !linux

package vm

import (
	"errors"
	"net"
)

var errLinux = errors.New("a virtual Pi without a card works on Linux only")

func inNamespace(string, func() error) error { return errLinux }

func dhcpSocket(string) (net.PacketConn, error) { return nil, errLinux }
