//go:build !linux

package vm

import (
	"errors"
	"time"
)

var errLinux = errors.New("a virtual Pi without a card works on Linux only")

// InNamespace is there on Linux only.
func InNamespace(string, func() error) error { return errLinux }

type dhcpConn struct{}

func dhcpSocket(string) (*dhcpConn, error) { return nil, errLinux }

func (*dhcpConn) read([]byte, time.Time) ([]byte, error) { return nil, errLinux }

func (*dhcpConn) send([]byte) error { return errLinux }

func (*dhcpConn) close() {}
