package bootserver

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/pikelet-os/pikelet/internal/host/bootserver/dhcp"
)

// wire is a socket of DHCP, and the frames beside it: what comes in is given,
// and where each answer goes is kept.
type wire struct {
	net.PacketConn
	in     []*dhcpv4.DHCPv4
	out    []string
	closed bool
}

var errUnplugged = errors.New("the cable is out")

func (w *wire) ReadFrom(b []byte) (int, net.Addr, error) {
	if len(w.in) == 0 {
		return 0, nil, errUnplugged
	}
	m := w.in[0]
	w.in = w.in[1:]
	return copy(b, m.ToBytes()), &net.UDPAddr{IP: net.IPv4zero, Port: dhcpv4.ClientPort}, nil
}

func (w *wire) WriteTo(b []byte, to net.Addr) (int, error) {
	w.out = append(w.out, to.String())
	return len(b), nil
}

func (w *wire) Send(b []byte, from, to netip.AddrPort, mac net.HardwareAddr) error {
	if len(w.out) == 3 {
		return os.ErrPermission
	}
	w.out = append(w.out, from.String()+" "+to.String()+" "+mac.String())
	return nil
}

func (w *wire) Close() error {
	w.closed = true
	return nil
}

// TestOffersReachOneMachine: two boot ROMs that ask at once, with one transaction
// id, are each sent their own offer alone; who asks for broadcasts has them.
func TestOffersReachOneMachine(t *testing.T) {
	s := newStage(t)
	s.Pool = &Pool{First: netip.MustParseAddr("10.0.0.50"), Last: netip.MustParseAddr("10.0.0.59"), Network: dhcp.Network{Bits: 24}}
	ask := func(mac string, with ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
		hw, err := net.ParseMAC(mac)
		if err != nil {
			t.Fatal(err)
		}
		m, err := dhcpv4.NewDiscovery(hw, append(with, dhcpv4.WithTransactionID(dhcpv4.TransactionID{0x26, 0xf3, 0x03, 0x39}))...)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	w := &wire{in: []*dhcpv4.DHCPv4{ask(piMAC), ask(otherMAC), ask("02:00:00:00:00:01", dhcpv4.WithBroadcast(true)), ask("02:00:00:00:00:02")}}
	if err := s.serveDHCP(t.Context(), w, w); !errors.Is(err, errUnplugged) {
		t.Fatal(err)
	}
	of := func(mac string) string { return s.Pool.of[mac].String() }
	want := []string{
		"10.0.0.1:67 " + of(piMAC) + ":68 " + piMAC, "10.0.0.1:67 " + of(otherMAC) + ":68 " + otherMAC, "255.255.255.255:68",
	}
	if !slices.Equal(w.out, want) || of(piMAC) == of(otherMAC) {
		t.Errorf("answers went to %q, want %q", w.out, want)
	}
	if !w.closed {
		t.Error("the sockets stay open")
	}
	if !slices.Contains(s.logged, "dhcp: sending an answer failed mac=02:00:00:00:00:02 err="+os.ErrPermission.Error()) {
		t.Errorf("of an offer that could not be sent nothing is said: %q", s.logged)
	}
}
