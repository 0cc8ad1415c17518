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

	mu     sync.Mutex
	leases map[netip.Addr]lease
}

type lease struct {
	mac string
	end time.Time
}

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

// Give returns the address of a machine. A machine keeps its own: where to
// look first is made of its hardware address, so that a server that forgot
// all leases gives the same ones again.
func (p *Pool) Give(m Machine, now time.Time) (netip.Addr, error) {
	if p.Fixed != nil {
		if a, ok := p.Fixed(m); ok {
			return a, nil
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leases == nil {
		p.leases = map[netip.Addr]lease{}
	}
	hash := fnv.New32a()
	hash.Write([]byte(m.MAC))
	for i := range p.size() {
		a := addr(number(p.First) + uint32((uint64(hash.Sum32())+uint64(i))%uint64(p.size())))
		if l, taken := p.leases[a]; !taken || l.mac == m.MAC || now.After(l.end) {
			p.leases[a] = lease{m.MAC, now.Add(leaseTime)}
			return a, nil
		}
	}
	return netip.Addr{}, errFull
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
			s.Log("dhcp: " + err.Error())
		}
		if answer == nil {
			continue
		}
		if _, err := conn.WriteTo(answer.ToBytes(), broadcast); err != nil && ctx.Err() == nil {
			s.Log("dhcp: " + err.Error())
		}
	}
}

// lease answers one message; nil for none.
func (s *Server) lease(m *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	c := dhcp.Identify(m)
	server := dhcp.Server{IP: s.IP.AsSlice(), Port: s.Port}
	if c.Kind == dhcp.Other {
		if s.Pool == nil {
			return nil, nil
		}
		ip, err := s.Pool.Give(Machine{MAC: c.MAC}, s.Now())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.MAC, err)
		}
		return dhcp.Answer(m, c, server, s.Pool.address(ip))
	}
	machine := Machine{Serial: c.Serial, MAC: c.MAC, Model: c.Model}
	s.mu.Lock()
	n := s.seen(machine, string(c.Kind)+" asks for an address")
	whole, adopted := n.Machine, n.Adopted
	if !adopted {
		n.Stage = "waits to be adopted"
	}
	admitted := true
	if (adopted || whole.Serial == "") && c.Kind == dhcp.Firmware && m.MessageType() == dhcpv4.MessageTypeDiscover {
		n.build, n.complete, n.kernel, n.initramfs = "", false, false, false // a boot begins
		if admitted = s.line.admit(whole.MAC, s.Most, s.Now()); !admitted {
			n.Stage = "waits for its turn"
		}
	}
	s.mu.Unlock()
	if !admitted {
		return nil, nil
	}
	// A ROM that does not say its serial says it to TFTP.
	if !adopted && whole.Serial != "" {
		return nil, nil
	}
	if s.Pool == nil {
		return dhcp.Answer(m, c, server, nil)
	}
	ip, err := s.Pool.Give(whole, s.Now())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.MAC, err)
	}
	return dhcp.Answer(m, c, server, s.Pool.address(ip))
}
