package dhcp

import (
	"net"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// TestAnswerDestination: RFC 2131 4.1. Two boot ROMs of a Pi 3B that are switched on
// together use one transaction id, and each takes the first offer it hears
// (raspberrypi/firmware#1067, #1303): an offer reaches only the machine it is for.
func TestAnswerDestination(t *testing.T) {
	const all = "255.255.255.255"
	var (
		request  = dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest)
		wants    = func(ip net.IP) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip)) }
		elsewise = net.IPv4(10, 0, 0, 7)
	)
	for name, c := range map[string]struct {
		with []dhcpv4.Modifier
		a    *Address
		ip   string
		mac  string // "" for the kernel's own way
	}{
		"an offer":                            {nil, address, "10.0.0.50", mac.String()},
		"an address that is given":            {[]dhcpv4.Modifier{request, wants(address.IP.AsSlice())}, address, "10.0.0.50", mac.String()},
		"a client that asks for broadcasts":   {[]dhcpv4.Modifier{dhcpv4.WithBroadcast(true)}, address, all, ""},
		"an offer beside another server":      {nil, nil, all, ""},
		"a refusal":                           {[]dhcpv4.Modifier{request, wants(elsewise)}, address, all, ""},
		"a refusal of an address that is set": {[]dhcpv4.Modifier{request, dhcpv4.WithClientIP(elsewise)}, address, all, ""},
		"a lease that is renewed":             {[]dhcpv4.Modifier{request, dhcpv4.WithClientIP(address.IP.AsSlice())}, address, "10.0.0.50", ""},
		"another address than the client has": {[]dhcpv4.Modifier{dhcpv4.WithClientIP(elsewise)}, address, "10.0.0.50", mac.String()},
		"a relay's message":                   {[]dhcpv4.Modifier{dhcpv4.WithGatewayIP(elsewise)}, address, all, ""},
	} {
		m := discover(t, pxe, id4(), c.with...)
		answer, err := Answer(m, pi4, server, c.a)
		if err != nil || answer == nil {
			t.Fatal(name, answer, err)
		}
		if ip, to := Target(m, answer); ip != netip.MustParseAddr(c.ip) || to.String() != c.mac {
			t.Errorf("%s: to %v at %q, want %s at %q", name, ip, to, c.ip, c.mac)
		}
	}
}

// TestInvalidHardwareAddress: a hardware address that no one machine has is not
// answered: the answer would reach others.
func TestInvalidHardwareAddress(t *testing.T) {
	for mac, want := range map[string]bool{
		"d8:3a:dd:01:02:03": true, "02:00:00:00:00:01": true,
		"ff:ff:ff:ff:ff:ff": false, "01:00:5e:00:00:01": false, "00:00:00:00:00:00": false,
	} {
		m := discover(t, pxe, id4())
		m.ClientHWAddr, _ = net.ParseMAC(mac)
		if got := Valid(m); got != want {
			t.Errorf("%s: %v, want %v", mac, got, want)
		}
	}
}
