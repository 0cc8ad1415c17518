package dhcp

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
)

var mac = net.HardwareAddr{0xd8, 0x3a, 0xdd, 0x01, 0x02, 0x03}

func discover(t testing.TB, class string, id []byte, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	with := []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptClassIdentifier(class))}
	if id != nil {
		with = append(with, dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, id)))
	}
	m, err := dhcpv4.NewDiscovery(mac, append(with, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const pxe = "PXEClient:Arch:00000:UNDI:002001"

func TestIdentify(t *testing.T) {
	serial := []byte{0x70, 0x73, 0x61, 0x52}
	for name, c := range map[string]struct {
		class string
		id    []byte
		want  Client
	}{
		"a Pi 4": {pxe, slice("\x00RPi4\x14\x31\xc0\x00", mac[2:], serial), Client{Firmware, mac.String(),
			"52617370", "RPi4", ""}},
		"a Pi 5": {pxe, slice("\x00RPi5\x70\x41\xc0\x00", mac[2:], serial), Client{Firmware, mac.String(),
			"52617370", "RPi5", ""}},
		"a model that moves a cursor": {pxe, slice("\x00RPi\x1b\x14\x31\xc0\x00", mac[2:], serial), Client{Firmware, mac.String(),
			"52617370", "", ""}},
		"a tag of its own": {pxe, slice("\x00ABCD\x70\x41\xc0\x00", mac[2:], serial), Client{Firmware, mac.String(),
			"52617370", "", ""}},
		"a tag that is back to front": {pxe, slice("\x004iPR\x11\x31\xc0\x00\x00\x00\x00\x00", serial), Client{Firmware, mac.String(),
			"52617370", "", ""}},
		"the ROM of a 3B": {pxe, slice("\x00", bytes.Repeat([]byte{0x44}, 16)), Client{Firmware, mac.String(), "", "", ""}},
		"a 3B+":           {pxe, slice("\x00", bytes.Repeat(serial, 4)), Client{Firmware, mac.String(), "52617370", "", ""}},
		"/init":           {bootapi.Class, nil, Client{Node, mac.String(), "", "", ""}},
		"a PC": {pxe, []byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10"),
			Client{Other, mac.String(), "", "", ""}},
		"a PC without a UUID":   {pxe, nil, Client{Other, mac.String(), "", "", ""}},
		"a phone":               {"android-dhcp-14", nil, Client{Other, mac.String(), "", "", ""}},
		"an id that is cut":     {pxe, []byte("\x00RPi4"), Client{Other, mac.String(), "", "", ""}},
		"an id of another kind": {pxe, slice("\x01RPi4\x14\x31\xc0\x00", mac[2:], serial), Client{Other, mac.String(), "", "", ""}},
	} {
		if got := Identify(discover(t, c.class, c.id)); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	m := discover(t, pxe, slice("\x00", bytes.Repeat([]byte{0x44}, 16)))
	m.ClientHWAddr = net.HardwareAddr{0xb8, 0x27, 0xeb, 0x6c, 0x4c, 0x16}
	if got := Identify(m); got.Ending != "6c4c16" || got.Serial != "" {
		t.Errorf("the ROM of a 3B with an address of its block: %+v", got)
	}
}

func slice(head string, parts ...[]byte) []byte {
	return append([]byte(head), bytes.Join(parts, nil)...)
}

var (
	server  = Server{IP: net.IPv4(10, 0, 0, 1).To4(), Port: 8069}
	address = &Address{IP: netip.MustParseAddr("10.0.0.50"), Lease: time.Hour, Network: Network{Bits: 24,
		Router: netip.MustParseAddr("10.0.0.254"), DNS: []netip.Addr{netip.MustParseAddr("10.0.0.253")}}}
	pi4 = Client{Firmware, mac.String(), "52617370", "RPi4", ""}
)

func id4() []byte { return slice("\x00RPi4\x14\x31\xc0\x00", mac[2:], []byte{0x70, 0x73, 0x61, 0x52}) }

// TestOffers is what goes over the wire, as text: each line is one that
// docs/platform.md 3.3 asks for.
func TestOffers(t *testing.T) {
	for name, c := range map[string]struct {
		m    *dhcpv4.DHCPv4
		c    Client
		a    *Address
		want []string
	}{
		"firmware": {discover(t, pxe, id4()), pi4, address, []string{
			"yiaddr 10.0.0.50", "siaddr 10.0.0.1", "type OFFER", "54 0a000001", "60 PXEClient", "66 10.0.0.1", "1 ffffff00", "3 0a0000fe",
			"6 0a0000fd", "51 00000e10",
			"43 0601030a040050584509170000145261737062657272792050692042" + "6f6f74202020ff", "97 " + "00525069341431c000dd01020370736152"}},
		"firmware, beside another server": {discover(t, pxe, id4()), pi4, nil, []string{"yiaddr 0.0.0.0", "siaddr 10.0.0.1",
			"type OFFER", "54 0a000001", "60 PXEClient"}},
		"/init": {discover(t, bootapi.Class, nil), Client{Kind: Node}, address, []string{"yiaddr 10.0.0.50",
			"siaddr 10.0.0.1", "60 " + bootapi.Class, "43 01021f85"}},
	} {
		got, err := Answer(c.m, c.c, server, c.a)
		if err != nil || got == nil {
			t.Fatal(name, got, err)
		}
		again, err := dhcpv4.FromBytes(got.ToBytes())
		if err != nil {
			t.Fatal(err)
		}
		text := lines(again)
		for _, w := range c.want {
			if !strings.Contains(text, "\n"+w+"\n") {
				t.Errorf("%s: no %q in %s", name, w, text)
			}
		}
		if n := len(got.ToBytes()); n > 576 {
			t.Errorf("%s: %d bytes, more than a boot ROM must take (RFC 2131 2)", name, n)
		}
	}
}

func lines(m *dhcpv4.DHCPv4) string {
	var s strings.Builder
	s.WriteString("\nyiaddr " + m.YourIPAddr.String() + "\nsiaddr " + m.ServerIPAddr.String() + "\ntype " + m.MessageType().String() + "\n")
	for code, v := range m.Options {
		s.WriteString(strconv.Itoa(int(code)) + " ")
		if code == 60 || code == 66 {
			s.WriteString(string(v) + "\n")
		} else {
			s.WriteString(hex.EncodeToString(v) + "\n")
		}
	}
	return s.String()
}

func TestRequests(t *testing.T) {
	request := func(with ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
		return discover(t, pxe, id4(), append(with, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest))...)
	}
	wants := func(ip net.IP) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip)) }
	of := func(ip net.IP) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ip)) }
	for name, c := range map[string]struct {
		m    *dhcpv4.DHCPv4
		a    *Address
		want dhcpv4.MessageType
	}{
		"what was offered":         {request(wants(address.IP.AsSlice()), of(server.IP)), address, dhcpv4.MessageTypeAck},
		"another address":          {request(wants(net.IPv4(10, 0, 0, 7)), of(server.IP)), address, dhcpv4.MessageTypeNak},
		"another server's offer":   {request(wants(address.IP.AsSlice()), of(net.IPv4(10, 0, 0, 2))), address, 0},
		"in proxy mode":            {request(wants(address.IP.AsSlice())), nil, 0},
		"a lease that is renewed":  {request(dhcpv4.WithClientIP(address.IP.AsSlice())), address, dhcpv4.MessageTypeAck},
		"a release":                {discover(t, pxe, id4(), dhcpv4.WithMessageType(dhcpv4.MessageTypeRelease)), address, 0},
		"an answer of somebody's":  {discover(t, pxe, id4(), func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootReply }), address, 0},
		"a message without a type": {discover(t, pxe, id4(), func(m *dhcpv4.DHCPv4) { m.Options.Del(dhcpv4.OptionDHCPMessageType) }), address, 0},
	} {
		got, err := Answer(c.m, pi4, server, c.a)
		switch {
		case err != nil:
			t.Error(name, err)
		case got == nil && c.want != 0 || got != nil && got.MessageType() != c.want:
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	phone := discover(t, "android-dhcp-14", nil)
	if got, err := Answer(phone, Identify(phone), server, nil); got != nil || err != nil {
		t.Errorf("a phone was answered beside another server: %v %v", got, err)
	}
	got, err := Answer(phone, Identify(phone), server, address)
	if err != nil || got == nil {
		t.Fatal(got, err)
	}
	if text := lines(got); !strings.Contains(text, "yiaddr 10.0.0.50\nsiaddr 0.0.0.0") || strings.Contains(text, "\n43 ") ||
		strings.Contains(text, "\n60 ") {
		t.Errorf("a phone was told %s", text)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(discover(f, pxe, id4()).ToBytes())
	f.Add(discover(f, bootapi.Class, nil).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil || !Valid(m) {
			return
		}
		got, err := Answer(m, Identify(m), server, address)
		if err != nil || got == nil {
			return
		}
		if _, err := dhcpv4.FromBytes(got.ToBytes()); err != nil {
			t.Fatal(err)
		}
	})
}
