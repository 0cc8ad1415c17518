package bootserver

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/pikelet-os/pikelet/internal/host/bootserver/dhcp"
	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
)

// TestRefusedRequestKeepsNothing: a REQUEST that is answered by a NAK, or that is
// for another server, takes no address from anybody.
func TestRefusedRequestKeepsNothing(t *testing.T) {
	elsewhere := dhcpv4.WithOption(dhcpv4.OptServerIdentifier(netip.MustParseAddr("10.0.0.2").AsSlice()))
	for name, c := range map[string]struct {
		more []dhcpv4.Modifier
		want string
	}{
		"an address that it is not given": {[]dhcpv4.Modifier{wants(netip.MustParseAddr("1.2.3.4"))}, "NAK"},
		"no address":                      {nil, "NAK"},
		"an offer of another server":      {[]dhcpv4.Modifier{elsewhere, wants(netip.MustParseAddr("10.0.0.50"))}, ""},
	} {
		s := newStage(t)
		s.Pool = &Pool{First: netip.MustParseAddr("10.0.0.50"), Last: netip.MustParseAddr("10.0.0.59"), Network: dhcp.Network{Bits: 24}}
		for i := range 40 {
			got := s.message(netip.IPv4Unspecified(), fmt.Sprintf("02:00:00:00:00:%02x", i), dhcpv4.MessageTypeRequest, c.more...)
			if is := ""; got != nil && got.MessageType().String() != c.want || got == nil && c.want != is {
				t.Fatalf("%s: answered by %v, want %q", name, got, c.want)
			}
		}
		if len(s.Pool.leases) != 0 || len(s.Pool.of) != 0 {
			t.Errorf("%s: %d addresses are kept", name, len(s.Pool.leases))
		}
	}
}

// TestLeaseEviction: a full pool takes an address from a machine of lower
// standing: an address that was only offered before one in use, the lowest
// standing first, and then the oldest lease. A machine of the same standing
// keeps its address.
func TestLeaseEviction(t *testing.T) {
	now := time.Unix(1700000000, 0)
	p := &Pool{First: netip.MustParseAddr("10.0.0.50"), Last: netip.MustParseAddr("10.0.0.53"), Network: dhcp.Network{Bits: 24}}
	takes := func(mac string, is standing, keeps bool) netip.Addr {
		t.Helper()
		now = now.Add(time.Second)
		a, err := p.offer(Machine{MAC: mac}, is, now)
		if err == nil && keeps {
			_, err = p.take(Machine{MAC: mac}, is, a, now)
		}
		if err != nil {
			return netip.Addr{}
		}
		return a
	}
	old, young := takes("old", stranger, true), takes("young", stranger, true)
	byName, offered := takes("by name", listed, true), takes("offered", stranger, false)
	if got := takes("one more", stranger, true); got.IsValid() {
		t.Errorf("another stranger has %v", got)
	}
	for i, want := range []netip.Addr{offered, old, young} {
		if got := takes(fmt.Sprint("listed ", i), listed, true); got != want {
			t.Errorf("listed machine %d has %v, want %v", i, got, want)
		}
	}
	if got := takes("listed 3", listed, true); got.IsValid() {
		t.Errorf("a listed machine took %v from another", got)
	}
	if got := takes("pinned", pinned, true); got != byName {
		t.Errorf("a pinned machine has %v, want %v", got, byName)
	}
	if got := takes("by name", listed, true); got.IsValid() {
		t.Errorf("who gave way has %v", got)
	}
	now = now.Add(11 * time.Hour)
	if got := takes("listed 0", listed, true); got != offered {
		t.Errorf("who keeps its address has %v, want %v", got, offered)
	}
}

// TestFullPoolServesKnownMachines: unknown machines hold all addresses for as long
// as their leases last; a known machine gets one all the same, whether its
// firmware, its /init or its running system asks.
func TestFullPoolServesKnownMachines(t *testing.T) {
	for name, as := range map[string]dhcpv4.Modifier{
		"firmware":         firmware(piSerial),
		"init":             dhcpv4.WithOption(dhcpv4.OptClassIdentifier(bootapi.Class)),
		"a running system": func(*dhcpv4.DHCPv4) {},
	} {
		s := newStage(t)
		s.Roster = some{piMAC}
		s.Pool = &Pool{First: netip.MustParseAddr("10.0.0.50"), Last: netip.MustParseAddr("10.0.0.59"), Network: dhcp.Network{Bits: 24}}
		for i := range 20 {
			mac := fmt.Sprintf("02:00:00:00:00:%02x", i)
			if offer := s.message(netip.IPv4Unspecified(), mac, dhcpv4.MessageTypeDiscover); offer != nil {
				ip, _ := netip.AddrFromSlice(offer.YourIPAddr.To4())
				s.message(netip.IPv4Unspecified(), mac, dhcpv4.MessageTypeRequest, wants(ip))
			}
		}
		if len(s.Pool.of) != 10 {
			t.Fatalf("%d have an address", len(s.Pool.of))
		}
		if got := s.message(netip.IPv4Unspecified(), piMAC, dhcpv4.MessageTypeDiscover, as); got == nil || got.YourIPAddr.IsUnspecified() {
			t.Errorf("%s: a known machine got %v", name, got)
		}
	}
}

// TestReleaseAndDecline: the machine that has it, from there; and one that
// was given it just now finds that another uses it.
func TestReleaseAndDecline(t *testing.T) {
	for name, c := range map[string]struct {
		from    netip.Addr // of the message
		uses    bool       // the machine is heard at its address
		decline bool
		after   time.Duration
		gone    bool
	}{
		"released by itself":        {from: piIP, uses: true, gone: true},
		"released by another":       {from: otherIP, uses: true},
		"released from nowhere":     {from: netip.IPv4Unspecified(), uses: true},
		"declined":                  {decline: true, gone: true},
		"declined, and it is used":  {decline: true, uses: true},
		"declined after it was had": {decline: true, after: time.Hour},
	} {
		s := newStage(t)
		s.Pool = &Pool{First: piIP, Last: piIP, Network: dhcp.Network{Bits: 24}}
		delete(s.macs, piIP)
		s.message(netip.IPv4Unspecified(), piMAC, dhcpv4.MessageTypeRequest, wants(piIP))
		if len(s.Pool.of) != 1 {
			t.Fatal(name)
		}
		if c.uses {
			s.macs[piIP] = piMAC
		}
		s.now = s.now.Add(c.after)
		if c.decline {
			s.message(c.from, piMAC, dhcpv4.MessageTypeDecline, wants(piIP))
		} else {
			s.message(c.from, piMAC, dhcpv4.MessageTypeRelease, dhcpv4.WithClientIP(piIP.AsSlice()))
		}
		if _, has := s.Pool.of[piMAC]; has == c.gone {
			t.Errorf("%s: it has its address: %v", name, has)
		}
	}
}

// TestFixedAddressNeedsItsMachine: the address that the inventory gives a machine goes
// to no other one that says its serial.
func TestFixedAddressNeedsItsMachine(t *testing.T) {
	s := newStage(t)
	s.Roster = inventory{known: func(m Machine) (string, bool) { return piMAC, m.Serial == piSerial }}
	fixed := netip.MustParseAddr("10.0.0.7")
	s.Pool = &Pool{First: piIP, Last: piIP, Network: dhcp.Network{Bits: 24}, Fixed: func(m Machine) (netip.Addr, bool) {
		return fixed,
			m.Serial == piSerial
	}}
	a, err := s.Pool.offer(Machine{Serial: piSerial, MAC: otherMAC}, s.standing(Machine{Serial: piSerial, MAC: otherMAC}), s.now)
	if err != nil || a == fixed {
		t.Errorf("another machine has %v, %v", a, err)
	}
	m := Machine{Serial: piSerial, MAC: piMAC}
	if a, err := s.Pool.offer(m, s.standing(m), s.now); err != nil || a != fixed {
		t.Errorf("the machine has %v, %v", a, err)
	}
}

// TestRunningSystemIsKnown: what runs on a machine asks for its address in no
// dialect of ours, and is what its firmware was.
func TestRunningSystemIsKnown(t *testing.T) {
	s := newStage(t) // which knows the machine by its serial
	s.Pool = &Pool{First: piIP, Last: piIP, Network: dhcp.Network{Bits: 24}}
	s.message(netip.IPv4Unspecified(), piMAC, dhcpv4.MessageTypeDiscover, firmware(piSerial))
	s.now = s.now.Add(leaseTime)
	s.message(netip.IPv4Unspecified(), otherMAC, dhcpv4.MessageTypeDiscover)
	s.message(netip.IPv4Unspecified(), otherMAC, dhcpv4.MessageTypeRequest, wants(piIP))
	if _, ok := s.Pool.of[otherMAC]; !ok {
		t.Fatal("the stranger has no address")
	}
	if got := s.message(netip.IPv4Unspecified(), piMAC, dhcpv4.MessageTypeDiscover); got == nil || !got.YourIPAddr.Equal(piIP.AsSlice()) {
		t.Errorf("it got %v", got)
	}
}

// TestFixedAddressOfA3B: the ROM of a 3B does not say its serial, and its address
// ends as that does: it has the address that its entry gives, before TFTP.
func TestFixedAddressOfA3B(t *testing.T) {
	s := newStage(t)
	fixed := netip.MustParseAddr("10.0.0.20")
	s.Pool = &Pool{First: netip.MustParseAddr("10.0.0.50"), Last: netip.MustParseAddr("10.0.0.59"), Network: dhcp.Network{Bits: 24},
		Fixed: func(m Machine) (netip.Addr, bool) { return fixed, m.Serial == piSerial }}
	id := "\x00" + strings.Repeat("D", 16)
	if got := offer(t, s, "b8:27:eb:61:73:70", id, pxe); got == nil || got.YourIPAddr.String() != fixed.String() {
		t.Errorf("it got %v", got)
	}
	if n := s.Nodes(); len(n) != 1 || n[0].Serial != piSerial || !n[0].Adopted {
		t.Errorf("%+v", n)
	}
	for name, mac := range map[string]string{"another serial": "b8:27:eb:61:73:71", "another block": "dc:a6:32:61:73:70"} {
		if got := offer(t, s, mac, id, pxe); got == nil || got.YourIPAddr.String() == fixed.String() {
			t.Errorf("%s got %v", name, got)
		}
	}
	s = newStage(t)
	s.Roster = inventory{known: func(m Machine) (string, bool) { return otherMAC, m.Serial == piSerial }}
	s.Pool = &Pool{First: netip.MustParseAddr("10.0.0.50"), Last: netip.MustParseAddr("10.0.0.59"), Network: dhcp.Network{Bits: 24},
		Fixed: func(m Machine) (netip.Addr, bool) { return fixed, m.Serial == piSerial }}
	if got := offer(t, s, "b8:27:eb:61:73:70", id, pxe); got == nil || got.YourIPAddr.String() == fixed.String() {
		t.Errorf("a serial with another hardware address got %v", got)
	}
}

func TestEndingIn(t *testing.T) {
	for _, c := range []struct {
		serials []string
		want    string
	}{
		{[]string{"00abcdef", "00123456"}, "00abcdef"}, {[]string{"1000000000abcdef", "00abcdef"}, "00abcdef"},
		{[]string{"00abcdef", "01abcdef"}, ""}, {[]string{"abcdef00", ""}, ""}, {nil, ""},
	} {
		if got, ok := EndingIn("abcdef", c.serials); got != c.want || ok != (c.want != "") {
			t.Errorf("%q: got %q, want %q", c.serials, got, c.want)
		}
	}
}
