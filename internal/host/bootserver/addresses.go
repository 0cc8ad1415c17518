package bootserver

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/pikelet-os/pikelet/internal/host/bootserver/dhcp"
)

// leaseTime is the lease of an assigned address: a node renews the lease after
// half of it, and a boot takes far less.
const leaseTime = 12 * time.Hour

// Pool is the range of addresses that the server assigns where it is the DHCP
// server of the network.
type Pool struct {
	First, Last netip.Addr
	dhcp.Network
	// Fixed returns the address an inventory gives to a machine.
	Fixed func(Machine) (netip.Addr, bool)
	// Taken reports whether an address is the fixed one of some machine; may be
	// nil.
	Taken func(netip.Addr) bool

	mu     sync.Mutex
	leases map[netip.Addr]lease
	of     map[string]netip.Addr // the address of each machine, by hardware address
	full   time.Time             // until then, unknown machines get no address
}

type lease struct {
	mac      string
	since    time.Time // when the address was last offered or assigned
	end      time.Time
	kept     bool // the client has requested the address it was offered
	standing standing
}

// Lifetimes of addresses.
const (
	offerTime    = time.Minute      // an offered address is reserved for the client
	declinedTime = 10 * time.Minute // an address that another machine uses is not assigned
	probeTime    = time.Minute      // a client declines an assigned address, after probing it (RFC 2131, section 4.4.1)
)

// errFull is returned by a pool that has no address left.
var errFull = errors.New("address pool exhausted")

// size returns how many addresses the pool has.
func (p *Pool) size() uint32 { return number(p.Last) - number(p.First) + 1 }

func number(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func addr(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// offer returns the address a machine may have, and reserves it for offerTime. A
// machine keeps its address. The search for a free one begins at a hash of the
// hardware address, so that a server that lost its leases assigns the same
// addresses again. In a full pool, a machine replaces one of lower standing. offer
// returns errFull where there is no address.
func (p *Pool) offer(m Machine, is standing, now time.Time) (netip.Addr, error) {
	return p.give(m, is, netip.Addr{}, now)
}

// take assigns a machine the address it wants for leaseTime. It returns another
// address, and reserves nothing, where the machine may not have the one it wants.
func (p *Pool) take(m Machine, is standing, want netip.Addr, now time.Time) (netip.Addr, error) {
	return p.give(m, is, want, now)
}

// give is take for a valid want, and offer otherwise.
func (p *Pool) give(m Machine, is standing, want netip.Addr, now time.Time) (netip.Addr, error) {
	if p.Fixed != nil && is > stranger {
		if a, ok := p.Fixed(m); ok {
			return a, nil
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leases == nil {
		p.leases, p.of = map[netip.Addr]lease{}, map[string]netip.Addr{}
	}
	a, own := p.of[m.MAC]
	if !own {
		var err error
		if a, err = p.find(m.MAC, is, now); err != nil {
			return netip.Addr{}, err
		}
	}
	if want.IsValid() && want != a {
		return a, nil
	}
	l := lease{mac: m.MAC, since: now, end: now.Add(offerTime), kept: want.IsValid(), standing: is}
	if l.kept {
		l.end = now.Add(leaseTime)
	}
	if was := p.leases[a]; own {
		l.end = later(was.end, l.end)
		if was.kept && !now.After(was.end) && !l.kept {
			l.since, l.kept = was.since, true
		}
	} else if was.mac != "" {
		delete(p.of, was.mac)
	}
	p.leases[a], p.of[m.MAC] = l, a
	return a, nil
}

// find returns an address for a machine that has none: a free one; else one that
// was only offered to a machine of lower standing; else the one that such a
// machine took longest ago.
func (p *Pool) find(mac string, is standing, now time.Time) (netip.Addr, error) {
	if is == stranger && now.Before(p.full) {
		return netip.Addr{}, errFull
	}
	hash := fnv.New32a()
	hash.Write([]byte(mac))
	first := now.Add(leaseTime)
	var lower netip.Addr
	for i := range p.size() {
		a := addr(number(p.First) + uint32((uint64(hash.Sum32())+uint64(i))%uint64(p.size())))
		if p.Taken != nil && p.Taken(a) {
			continue
		}
		l, taken := p.leases[a]
		if !taken || now.After(l.end) {
			return a, nil
		}
		if l.end.Before(first) {
			first = l.end
		}
		if l.mac != "" && l.standing < is && (!lower.IsValid() || l.before(p.leases[lower])) {
			lower = a
		}
	}
	if lower.IsValid() {
		return lower, nil
	}
	if is == stranger {
		p.full = first
	}
	return netip.Addr{}, errFull
}

// before reports whether a lease is given up before another one.
func (l lease) before(other lease) bool {
	switch {
	case l.kept != other.kept:
		return !l.kept
	case l.standing != other.standing:
		return l.standing < other.standing
	}
	return l.since.Before(other.since)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// released takes an address back from the client that has it.
func (p *Pool) released(mac string, a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if own, ok := p.of[mac]; !ok || own != a {
		return
	}
	delete(p.leases, a)
	delete(p.of, mac)
	p.full = time.Time{}
}

// declined reserves an address for declinedTime: the client that was assigned it
// less than probeTime ago found another machine using it. It reports whether the
// client was assigned the address.
func (p *Pool) declined(mac string, a netip.Addr, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	own, ok := p.of[mac]
	if l := p.leases[own]; !ok || own != a || !l.kept || now.Sub(l.since) > probeTime {
		return false
	}
	p.leases[a] = lease{end: now.Add(declinedTime)}
	delete(p.of, mac)
	return true
}

func (p *Pool) address(ip netip.Addr) *dhcp.Address {
	return &dhcp.Address{IP: ip, Lease: leaseTime, Network: p.Network}
}

// Framer sends UDP in frames addressed to a hardware address: dhcp.Frames, except
// in tests.
type Framer interface {
	Send(b []byte, from, to netip.AddrPort, mac net.HardwareAddr) error
	Close() error
}

func (s *Server) serveDHCP(ctx context.Context, conn net.PacketConn, frames Framer) error {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if frames != nil {
		defer frames.Close()
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receiving a DHCP message: %w", err)
		}
		m, err := dhcpv4.FromBytes(buf[:n])
		if err != nil || !dhcp.Valid(m) {
			continue
		}
		answer, err := s.lease(m, ipOf(from))
		if err != nil {
			s.log(slog.LevelWarn, "dhcp", "answering a message failed", "mac", m.ClientHWAddr, "err", err)
		}
		if answer == nil {
			continue
		}
		if err := s.sendDHCP(m, answer, conn, frames); err != nil && ctx.Err() == nil {
			s.log(slog.LevelWarn, "dhcp", "sending an answer failed", "mac", m.ClientHWAddr, "err", err)
		}
	}
}

// sendDHCP sends the answer to a message to the client it is for, and to no other
// machine where the client can be addressed.
func (s *Server) sendDHCP(m, answer *dhcpv4.DHCPv4, conn net.PacketConn, frames Framer) error {
	ip, mac := dhcp.Target(m, answer)
	to := netip.AddrPortFrom(ip, dhcpv4.ClientPort)
	if mac != nil {
		return frames.Send(answer.ToBytes(), netip.AddrPortFrom(s.IP, dhcpv4.ServerPort), to, mac)
	}
	_, err := conn.WriteTo(answer.ToBytes(), net.UDPAddrFromAddrPort(to))
	return err
}

// ipOf returns the IPv4 address of a sender; the zero Addr where it has none.
func ipOf(a net.Addr) netip.Addr {
	if u, ok := a.(*net.UDPAddr); ok {
		return u.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// lease returns the answer to a message from the address from; nil for none.
func (s *Server) lease(m *dhcpv4.DHCPv4, from netip.Addr) (*dhcpv4.DHCPv4, error) {
	c := dhcp.Identify(m)
	server := dhcp.Server{IP: s.IP.AsSlice(), Port: s.Port}
	if s.Pool != nil {
		switch m.MessageType() {
		case dhcpv4.MessageTypeRelease:
			// A message can name any hardware address; its sender's address
			// shows which machine sent it.
			if s.MACOf(from) == c.MAC {
				s.Pool.released(c.MAC, from)
			}
			return nil, nil
		case dhcpv4.MessageTypeDecline:
			a, _ := netip.AddrFromSlice(m.RequestedIPAddress().To4())
			// A machine that uses an address does not decline it.
			if s.MACOf(a) == c.MAC || !s.Pool.declined(c.MAC, a, s.Now()) {
				return nil, nil
			}
			return nil, fmt.Errorf("%s declined %s: address in use by another machine", c.MAC, a)
		}
	}
	machine := Machine{MAC: c.MAC}
	if c.Kind == dhcp.Other {
		machine = s.machine(machine)
	} else {
		machine.Serial, machine.Model = s.serialOf(c), c.Model
		var answered bool
		if machine, answered = s.asks(machine, c.Kind, m.MessageType()); !answered {
			return nil, nil
		}
	}
	if s.Pool == nil {
		return dhcp.Answer(m, c, server, nil)
	}
	ip, ok, err := s.address(machine, m)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, nil
	}
	return dhcp.Answer(m, c, server, s.Pool.address(ip))
}

// serialOf returns the serial of a client, "" where it is unknown: a 3B sends only
// the end of its serial, which identifies it if it is listed.
func (s *Server) serialOf(c dhcp.Client) string {
	if c.Ending == "" {
		return c.Serial
	}
	serial, ok := s.Roster.Ending(c.Ending)
	if !ok || s.standing(Machine{Serial: serial, MAC: c.MAC}) == stranger {
		return ""
	}
	return serial
}

// address returns the address for the answer to a message; ok is false where there
// is none. A machine that asks for an address it may not have reserves nothing.
func (s *Server) address(machine Machine, m *dhcpv4.DHCPv4) (ip netip.Addr, ok bool, err error) {
	if m.MessageType() == dhcpv4.MessageTypeDiscover {
		ip, err = s.Pool.offer(machine, s.standing(machine), s.Now())
		return ip, err == nil, err
	}
	if m.MessageType() != dhcpv4.MessageTypeRequest || !dhcp.Asked(m, s.IP.AsSlice()) {
		return netip.Addr{}, false, nil
	}
	want, valid := netip.AddrFromSlice(dhcp.Wanted(m).To4())
	if !valid {
		want = netip.IPv4Unspecified()
	}
	ip, err = s.Pool.take(machine, s.standing(machine), want, s.Now())
	return ip, err == nil, err
}

// asks records that a Pi asks for an address, and reports whether it is answered
// now: an adopted one when it is its turn, and one whose serial is still unknown,
// because it sends the serial to TFTP only.
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
	own, hurry := &s.lines[n.standing], m.Model == "" // only a Pi 3 does not send its model
	admitted := true
	if n.Adopted && s.lines[stranger].has(m.MAC) { // and it has identified itself since then
		s.lines[stranger].done(m.MAC)
		own.begin(m.MAC, now)
	} else {
		admitted = own.admit(m.MAC, hurry, s.Most, now)
	}
	if !admitted {
		n.Stage = "waits for its turn"
	}
	return m, admitted
}
