//go:build !linux

package tftp

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// engine is for Linux.
type engine struct{}

func newEngine(func() time.Time) (*engine, error) { return nil, errors.ErrUnsupported }

func (*engine) run(context.Context) {}

func (*engine) add(netip.Addr, netip.AddrPort, *flight, func()) {}

func (*engine) once(netip.Addr, netip.AddrPort, []byte) error { return errors.ErrUnsupported }
