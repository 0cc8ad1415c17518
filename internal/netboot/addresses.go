package netboot

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/pikelet-os/pikelet/internal/netboot/dhcp"
)

// leaseTime is how long an address is given for: a node asks again after half
// of it, and a boot is over long before.
const leaseTime = 12 * time.Hour

// Pool are the addresses a server gives away where it is the network's DHCP
// server.
type Pool struct {
	First, Last netip.Addr
	Bits        int          // of the network
	Router      netip.Addr   // zero for none
	DNS         []netip.Addr // may be empty
	// Fixed returns the address an inventory gives to a machine.
	Fixed func(Machine) (netip.Addr, bool)
	// Taken says that an address is some machine's fixed one; may be nil.
	Taken func(netip.Addr) bool

	mu     sync.Mutex
	leases map[netip.Addr]lease
	of     map[string]netip.Addr // each machine's, by hardware address
	full   time.Time             // until when there is none for strangers
}

type lease struct {
	mac      string
	end      time.Time
	stranger bool // and offered only: who asked has not taken it
}

// How long an address that was offered is kept for who asked, and one that
// somebody else has turned out to use is left alone.
const (
	offerTime    = time.Minute
	declinedTime = 10 * time.Minute
)

// errFull is a pool that has no address left.
var errFull = errors.New("no address is left")

// size returns how many addresses the pool has.
func (p *Pool) size() uint32 { return number(p.Last) - number(p.First) + 1 }

func number(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func addr(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// Give returns the address of a machine: to keep, or, where it only asks, for a
// moment. A machine keeps its own, and where to look first is made of its
// hardware address, so that a server that forgot all leases gives the same ones
// again. stranger says that nobody knows the machine: when the pool is
// full, those that are known take what strangers only asked for.
func (p *Pool) Give(m Machine, stranger, keeps bool, now time.Time) (netip.Addr, error) {
	if p.Fixed != nil {
		if a, ok := p.Fixed(m); ok {
			return a, nil
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leases == nil {
		p.leases, p.of = map[netip.Addr]lease{}, map[string]netip.Addr{}
	}
	end := now.Add(offerTime)
	if keeps {
		end = now.Add(leaseTime)
	}
	if own, ok := p.of[m.MAC]; ok {
		l := p.leases[own]
		p.leases[own] = lease{m.MAC, later(l.end, end), stranger && !keeps && (l.stranger || now.After(l.end))}
		return own, nil
	}
	if stranger && now.Before(p.full) {
		return netip.Addr{}, errFull
	}
	hash := fnv.New32a()
	hash.Write([]byte(m.MAC))
	first := now.Add(leaseTime)
	for i := range p.size() {
		a := addr(number(p.First) + uint32((uint64(hash.Sum32())+uint64(i))%uint64(p.size())))
		if p.Taken != nil && p.Taken(a) {
			continue
		}
		if l, taken := p.leases[a]; taken && !now.After(l.end) && (stranger || !l.stranger) {
			if l.end.Before(first) {
				first = l.end
			}
			continue
		}
		delete(p.of, p.leases[a].mac)
		p.leases[a], p.of[m.MAC] = lease{m.MAC, end, stranger && !keeps}, a
		return a, nil
	}
	if stranger {
		p.full = first
	}
	return netip.Addr{}, errFull
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Released takes an address back from who has it.
func (p *Pool) Released(mac string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.leases, p.of[mac])
	delete(p.of, mac)
	p.full = time.Time{}
}

// Declined leaves an address alone for a while: who was to have it found
// somebody else there.
func (p *Pool) Declined(mac string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, ok := p.of[mac]; ok {
		p.leases[a] = lease{end: now.Add(declinedTime)}
		delete(p.of, mac)
	}
}

func (p *Pool) address(ip netip.Addr) *dhcp.Address {
	a := &dhcp.Address{IP: ip.AsSlice(), Mask: net.CIDRMask(p.Bits, 32), Lease: leaseTime}
	if p.Router.IsValid() {
		a.Router = p.Router.AsSlice()
	}
	for _, d := range p.DNS {
		a.DNS = append(a.DNS, d.AsSlice())
	}
	return a
}

// broadcast is where answers go: who asks has no address yet.
var broadcast = &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ClientPort}

func (s *Server) serveDHCP(ctx context.Context, conn net.PacketConn) error {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	buf := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("dhcp: %w", err)
		}
		m, err := dhcpv4.FromBytes(buf[:n])
		if err != nil || !dhcp.Valid(m) {
			continue
		}
		answer, err := s.lease(m)
		if err != nil {
			s.tell("dhcp", err.Error())
		}
		if answer == nil {
			continue
		}
		if _, err := conn.WriteTo(answer.ToBytes(), broadcast); err != nil && ctx.Err() == nil {
			s.tell("dhcp", err.Error())
		}
	}
}

// lease answers one message; nil for none.
func (s *Server) lease(m *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	c := dhcp.Identify(m)
	server := dhcp.Server{IP: s.IP.AsSlice(), Port: s.Port}
	if s.Pool != nil {
		switch m.MessageType() {
		case dhcpv4.MessageTypeRelease:
			s.Pool.Released(c.MAC)
			return nil, nil
		case dhcpv4.MessageTypeDecline:
			s.Pool.Declined(c.MAC, s.Now())
			return nil, fmt.Errorf("%s says that another machine has %s", c.MAC, m.RequestedIPAddress())
		}
	}
	machine := Machine{MAC: c.MAC}
	stranger := true
	if c.Kind != dhcp.Other {
		machine.Serial, machine.Model = c.Serial, c.Model
		var answered bool
		if machine, answered = s.asks(machine, c.Kind, m.MessageType()); !answered {
			return nil, nil
		}
		_, known := s.Roster.Known(machine)
		stranger = !known
	}
	if s.Pool == nil {
		return dhcp.Answer(m, c, server, nil)
	}
	ip, err := s.Pool.Give(machine, stranger, m.MessageType() == dhcpv4.MessageTypeRequest, s.Now())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.MAC, err)
	}
	return dhcp.Answer(m, c, server, s.Pool.address(ip))
}

// asks notes that a Pi asks for an address, and says whether it is answered
// now: one that is adopted, when it is its turn, and one that does not say its
// serial yet, which it does to TFTP.
func (s *Server) asks(m Machine, kind dhcp.Kind, message dhcpv4.MessageType) (Machine, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Now()
	n := s.seen(m, string(kind)+" asks for an address")
	m = n.Machine
	if !n.Adopted {
		n.Stage = "waits to be adopted"
	}
	if !n.Adopted && m.Serial != "" {
		return m, false
	}
	if kind != dhcp.Firmware || message != dhcpv4.MessageTypeDiscover {
		return m, true
	}
	n.begins()
	var admitted bool
	switch hurry := m.Model == ""; { // only a Pi 3 does not say its model
	case !n.Adopted: // anybody can be that
		admitted = s.unknown.admit(m.MAC, hurry, s.Most, now)
	case s.unknown.has(m.MAC): // and this one said since then who it is
		s.unknown.done(m.MAC)
		s.line.begin(m.MAC, now)
		admitted = true
	default:
		admitted = s.line.admit(m.MAC, hurry, s.Most, now)
	}
	if !admitted {
		n.Stage = "waits for its turn"
	}
	return m, admitted
}
