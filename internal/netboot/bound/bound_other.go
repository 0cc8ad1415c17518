//go:build !linux

package bound

import (
	"errors"
	"net"
)

// Listen is there on Linux only.
func Listen(string, int) (net.PacketConn, error) {
	return nil, errors.New("serving boots works on Linux only")
}
