package dhcp

import (
	"fmt"
	"net/netip"

	"github.com/pikelet-os/pikelet/internal/netboot/plane"
)

// Dnsmasq returns the lines of dnsmasq.conf that say what Answer does, for
// networks whose DHCP server is dnsmasq: who is no Pi hears nothing of them.
func Dnsmasq(server netip.Addr) string {
	return fmt.Sprintf(`# Raspberry Pi firmware: option 43 as it reads it, and the boot server in siaddr.
dhcp-vendorclass=set:pikelet-firmware,PXEClient
dhcp-option-force=tag:pikelet-firmware,60,PXEClient
dhcp-option-force=tag:pikelet-firmware,43,%[1]s
dhcp-option-force=tag:pikelet-firmware,66,%[3]s
dhcp-boot=tag:pikelet-firmware,bootcode.bin,,%[3]s
# /init of a node without a card.
dhcp-vendorclass=set:pikelet-node,%[4]s
dhcp-option-force=tag:pikelet-node,60,%[4]s
dhcp-option-force=tag:pikelet-node,43,%[2]s
dhcp-boot=tag:pikelet-node,bootcode.bin,,%[3]s
`, hexOctets(menu()), hexOctets(plane.EncodePort(plane.Port)), server, plane.Class)
}

// hexOctets writes octets as dnsmasq reads them.
func hexOctets(b []byte) string {
	s := ""
	for i, c := range b {
		if i > 0 {
			s += ":"
		}
		s += fmt.Sprintf("%02x", c)
	}
	return s
}
