// Package dhcp answers booting machines: Raspberry Pi firmware, which reads some
// options in its own way (docs/platform.md 3.2, 3.3), and /init. It answers as
// the network's DHCP server, or beside one as a proxy, which names the boot server
// and assigns no addresses.
package dhcp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
)

// Kind is the kind of a client.
type Kind string

// The kinds of clients.
const (
	Firmware Kind = "firmware" // a Pi's boot ROM or EEPROM
	Node     Kind = "node"     // /init
	Other    Kind = "other"
)

// Client is the sender of a message, as far as it is known.
type Client struct {
	Kind   Kind
	MAC    string // lower case, with colons
	Serial string // eight hexadecimal digits in lower case; "" where the client does not send it
	Model  string // such as RPi4; "" where the client does not send it
	// Ending is the last six digits of the serial of a client that does not send
	// it: a 3B's hardware address ends as its serial does.
	Ending string
}

// modelForm matches a model.
var modelForm = regexp.MustCompile(`^RPi[0-9A-Za-z]$`)

// id3B is every octet of option 97 from the ROM of a 3B, whatever its serial.
const id3B = 0x44

// block3B is the block of hardware addresses that a 3B has one of, whose last
// three bytes are those of its serial (raspberrypi/firmware#1605,
// raspberrypi/piserver#125).
var block3B = []byte{0xb8, 0x27, 0xeb}

// Identify returns the sender of a message. Firmware claims to be that of a PC
// (option 93 is 0, and option 60 begins with Arch:00000), and its hardware
// addresses come from ever more blocks, so it is recognized by option 97: a tag
// that begins with RPi or with iPR, a custom tag followed by the low bytes of the
// hardware address, or one number four times over.
func Identify(m *dhcpv4.DHCPv4) Client {
	c := Client{Kind: Other, MAC: m.ClientHWAddr.String()}
	class := m.ClassIdentifier()
	if class == bootapi.Class {
		c.Kind = Node
		return c
	}
	id := m.Options.Get(dhcpv4.OptionClientMachineIdentifier)
	if !strings.HasPrefix(class, "PXEClient") || len(id) != 17 || id[0] != 0 || len(m.ClientHWAddr) != 6 {
		return c
	}
	id = id[1:]
	serial := fmt.Sprintf("%08x", binary.LittleEndian.Uint32(id[12:]))
	switch {
	case bytes.HasPrefix(id, []byte("RPi")):
		c.Kind, c.Serial = Firmware, serial
		if modelForm.Match(id[:4]) {
			c.Model = string(id[:4])
		}
	case bytes.Equal(id[1:4], []byte("iPR")): // reversed, as EEPROMs of 2020 send it (raspberrypi/rpi-eeprom#103)
		c.Kind, c.Serial = Firmware, serial
	case bytes.Equal(id[8:12], m.ClientHWAddr[2:]):
		c.Kind, c.Serial = Firmware, serial
	case bytes.Equal(id[:4], id[4:8]) && bytes.Equal(id[:8], id[8:]):
		c.Kind = Firmware
		switch mac := m.ClientHWAddr; {
		case !bytes.Equal(id[:4], []byte{id3B, id3B, id3B, id3B}):
			c.Serial = serial
		case bytes.HasPrefix(mac, block3B):
			c.Ending = fmt.Sprintf("%x", []byte(mac[len(block3B):]))
		}
	}
	return c
}

// Network is the network configuration of a client beside its address. Another
// option, such as NTP servers, is a field here and a line in its options.
type Network struct {
	Bits   int          // length of the network's prefix
	Router netip.Addr   // zero for none
	DNS    []netip.Addr // may be empty
}

// options returns the options of an answer that assigns an address.
func (n Network) options() []dhcpv4.Modifier {
	list := []dhcpv4.Modifier{dhcpv4.WithNetmask(net.CIDRMask(n.Bits, 32))}
	if n.Router.IsValid() {
		list = append(list, dhcpv4.WithRouter(n.Router.AsSlice()))
	}
	if len(n.DNS) > 0 {
		var servers []net.IP
		for _, a := range n.DNS {
			servers = append(servers, a.AsSlice())
		}
		list = append(list, dhcpv4.WithDNS(servers...))
	}
	return list
}

// Address is the address assigned to a client. In proxy mode there is none.
type Address struct {
	IP    netip.Addr
	Lease time.Duration
	Network
}

// Server is the server as answers describe it.
type Server struct {
	IP   net.IP
	Port uint16 // of the boot API
}

// menu is option 43 as a Pi reads it: discovery control 3, a prompt with timeout
// 0, and a boot menu with the one text it looks for, including the three blanks
// that the ROM of the 3B requires and others accept (docs/platform.md 3.3).
func menu() []byte {
	text := "Raspberry Pi Boot   "
	b := []byte{6, 1, 3, 10, 4, 0, 'P', 'X', 'E', 9, byte(3 + len(text)), 0, 0, byte(len(text))}
	return append(append(b, text...), 255)
}

// Answer returns the answer to a message, nil for none. a is nil in proxy mode,
// and for a client that gets no address. Other clients than Pis get an address,
// if there is one, and no boot options.
func Answer(m *dhcpv4.DHCPv4, c Client, s Server, a *Address) (*dhcpv4.DHCPv4, error) {
	if c.Kind == Other && a == nil || m.OpCode != dhcpv4.OpcodeBootRequest {
		return nil, nil
	}
	kind := dhcpv4.MessageTypeOffer
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
	case dhcpv4.MessageTypeRequest:
		if a == nil {
			return nil, nil // the other DHCP server answers
		}
		if !Asked(m, s.IP) {
			return nil, nil // the client accepted another offer
		}
		kind = dhcpv4.MessageTypeAck
		if !Wanted(m).Equal(a.IP.AsSlice()) {
			kind = dhcpv4.MessageTypeNak
		}
	default:
		return nil, nil
	}
	with := []dhcpv4.Modifier{dhcpv4.WithMessageType(kind), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(s.IP))}
	if kind == dhcpv4.MessageTypeNak {
		return dhcpv4.NewReplyFromRequest(m, with...)
	}
	if c.Kind != Other {
		with = append(with, dhcpv4.WithServerIP(s.IP), dhcpv4.WithOption(dhcpv4.OptTFTPServerName(s.IP.String())))
	}
	switch c.Kind {
	case Node:
		with = append(with, dhcpv4.WithOption(dhcpv4.OptClassIdentifier(bootapi.Class)),
			dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, bootapi.EncodePort(s.Port))))
	case Firmware:
		with = append(with, dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient")),
			dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, menu())))
		if id := m.Options.Get(dhcpv4.OptionClientMachineIdentifier); id != nil {
			with = append(with, dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, id)))
		}
	}
	if a != nil {
		with = append(with, dhcpv4.WithYourIP(a.IP.AsSlice()), dhcpv4.WithLeaseTime(uint32(a.Lease.Seconds())))
		with = append(with, a.Network.options()...)
	}
	return dhcpv4.NewReplyFromRequest(m, with...)
}

// Asked reports whether a REQUEST is for the server with an address: it names that
// server or none.
func Asked(m *dhcpv4.DHCPv4, server net.IP) bool {
	id := m.ServerIdentifier()
	return id == nil || id.Equal(server)
}

// Wanted returns the address that a REQUEST is for.
func Wanted(m *dhcpv4.DHCPv4) net.IP {
	if want := m.RequestedIPAddress(); want != nil && !want.IsUnspecified() {
		return want
	}
	return m.ClientIPAddr
}

// Valid reports whether a message may be answered: a request from a unicast
// hardware address.
func Valid(m *dhcpv4.DHCPv4) bool {
	const group = 1 // bit of the first octet (IEEE 802)
	mac := m.ClientHWAddr
	return m.OpCode == dhcpv4.OpcodeBootRequest && m.HWType == iana.HWTypeEthernet &&
		len(mac) == 6 && mac[0]&group == 0 && !bytes.Equal(mac, make([]byte, 6))
}
