// Package bootserver starts machines without a card: it answers their DHCP and
// TFTP, gives their /init the image and the node config, and knows how far
// each one is. What it serves are artifacts as they are; what is per node
// comes by serial.
package bootserver

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// openFile opens a file of an image that lies on this computer.
func openFile(i *image.Image, f image.File) (image.ReaderAt, error) {
	r, err := i.Source.OpenAt(f)
	if err != nil {
		return nil, fmt.Errorf("opening %s of %s %s: %w", f.Name, i.Stream, i.Release, err)
	}
	return r, nil
}

// Machine is what a boot shows of the machine, as far as it goes.
type Machine struct {
	Serial string `json:"serial,omitempty"` // eight hexadecimal digits in lower case
	MAC    string `json:"mac,omitempty"`    // lower case, with colons
	Model  string `json:"model,omitempty"`  // such as RPi4
}

// Roster says which machines are served, and what makes each one itself.
type Roster interface {
	// Known reports whether a machine is listed or adopted, and which hardware
	// address it must have; "" where none is named. The machine may have
	// another one: then it is not the one that is meant.
	Known(Machine) (mac string, ok bool)
	// Ending returns the one listed or adopted serial that ends in some digits, as
	// its last eight; ok is false where there is none, or several.
	Ending(digits string) (serial string, ok bool)
	// Config returns the config of one machine; nil where it has none.
	Config(Machine) ([]byte, error)
	// Reference names the image for a machine; "" for the server's default.
	Reference(Machine) string
}

// claimTime is how long after its firmware had the last file a node may ask
// for its config: a kernel's start, and a switch port that takes half a minute
// to open.
const claimTime = 120 * time.Second

// Server is a boot server. Its fields do not change while it runs.
type Server struct {
	Reference string // of the default image
	Images    *Images
	Health    *Records[Health]
	Roster    Roster
	IP        netip.Addr // the server's own address in the network
	Port      uint16     // of the boot API, TCP
	Pool      *Pool      // nil beside another DHCP server
	Most      int        // boots at a time; 0 is no bound

	Now func() time.Time
	// MACOf returns the hardware address of a neighbour, in lower case with
	// colons; "" where it is not known.
	MACOf func(netip.Addr) string
	Log   *slog.Logger

	mu       sync.Mutex
	nodes    book
	lines    [pinned + 1]line // of boots, by standing
	counts   counts
	logLimit logLimit
}

// done records that the firmware of a machine has all its files. The caller holds
// the lock.
func (s *Server) done(mac string) {
	for i := range s.lines {
		s.lines[i].done(mac)
	}
}

// claim decides whether a node gets its config: it must be adopted, ask from the
// address to which its firmware was just served, within claimTime, and for the
// first time on this boot. Its error gives the reason for a refusal, which is
// recorded with the machine that asked; that need not be the node.
func (s *Server) claim(m bootapi.Machine, from netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	machine := Machine{Serial: short(m.Serial), MAC: s.MACOf(from)}
	if machine.MAC == "" {
		return errNoMAC
	}
	n := s.nodes.find(machine)
	if n != nil {
		machine.Model = n.Model
	}
	err := s.mayClaim(n, machine, m.MAC, from)
	if err == nil {
		s.nodes.note(machine, s.standing).claimed = true // its firmware may not have sent the serial
		return nil
	}
	n = s.seen(machine, "asks for a config")
	n.IP = from.String()
	n.Error = Printable("a claim of its config was refused: "+err.Error(), maxError)
	return err
}

// mayClaim is the rule of claim. n is the known machine, nil for none; mac is the
// hardware address that it claims.
func (s *Server) mayClaim(n *Node, m Machine, mac string, from netip.Addr) error {
	want, ok := s.Roster.Known(m)
	switch {
	case !ok:
		return fmt.Errorf("serial %s is not adopted", m.Serial)
	case want != "" && want != m.MAC:
		return fmt.Errorf("serial %s has hardware address %s; %s has %s", m.Serial, want, from, m.MAC)
	case mac != m.MAC:
		return fmt.Errorf("the request names hardware address %s; %s has %s", mac, from, m.MAC)
	case n == nil || n.served.IsZero():
		return fmt.Errorf("no boot of serial %s was served from here to %s", m.Serial, m.MAC)
	case from != n.from:
		return fmt.Errorf("the boot of serial %s was served to %s, not to %s", m.Serial, n.from, from)
	case s.Now().Sub(n.served) > claimTime:
		return fmt.Errorf("the boot of serial %s was served %v ago, more than %v", m.Serial, s.Now().Sub(n.served).Round(time.Second), claimTime)
	case n.claimed:
		return fmt.Errorf("the config of serial %s was claimed on this boot already", m.Serial)
	}
	return nil
}

// short returns the last eight digits of a serial, which tell boards apart
// (docs/platform.md 4).
func short(serial string) string { return serial[max(0, len(serial)-8):] }

// Listeners are the sockets of a server. DHCP may be nil; so may Frames, which
// sends addresses, where the server has no Pool.
type Listeners struct {
	DHCP   net.PacketConn
	Frames Framer
	TFTP   *net.UDPConn
	HTTP   net.Listener
}

// Serve answers until ctx ends, or one of the listeners fails.
func (s *Server) Serve(ctx context.Context, l Listeners) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	parts := []func() error{
		func() error { return s.serveTFTP(ctx, l.TFTP) },
		func() error { return s.serveHTTP(ctx, bounded(l.HTTP, s.Now, planeConns), s.Plane()) },
	}
	if l.DHCP != nil {
		parts = append(parts, func() error { return s.serveDHCP(ctx, l.DHCP, l.Frames) })
	}
	failed := make(chan error, len(parts))
	for _, p := range parts {
		go func() { failed <- p() }()
	}
	var err error
	for range parts {
		if e := <-failed; e != nil && err == nil {
			err = e
		}
		stop()
	}
	return err
}
