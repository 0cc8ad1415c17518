package dhcp

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
)

// ownBlocks are blocks of hardware addresses of Pis, for firmware whose option 97
// matches no pattern: one number four times over, or a custom tag.
var ownBlocks = [...]string{"b8:27:eb", "dc:a6:32", "e4:5f:01", "d8:3a:dd", "2c:cf:67", "28:cd:c1"}

// Dnsmasq returns lines of dnsmasq.conf that have the effect of Answer, for
// networks whose DHCP server is dnsmasq. They apply to Pis only: the firmware of a
// PC has the same vendor class, and is told apart by option 97, as in Identify, or
// by the block of the hardware address.
func Dnsmasq(server netip.Addr) string {
	var blocks strings.Builder
	for _, b := range ownBlocks {
		fmt.Fprintf(&blocks, "dhcp-mac=set:pikelet-board,%s:*:*:*\n", b)
	}
	return fmt.Sprintf(`# Behind any other dhcp-boot line: of those that fit, dnsmasq takes the last.
# Raspberry Pi firmware says that it is a PC's, and in option 97 that it is not.
dhcp-vendorclass=set:pikelet-pxe,PXEClient:Arch:00000
dhcp-match=set:pikelet-board,97,00:52:50:69
dhcp-match=set:pikelet-board,97,00:*:69:50:52
dhcp-match=set:pikelet-board,97,%[5]s
# A Pi 3B+, and others with an option 97 of their own, are told by hardware address.
# Add the block of yours where it is missing.
%[6]stag-if=set:pikelet-firmware,tag:pikelet-pxe,tag:pikelet-board
# Option 43 as firmware reads it, and the boot server in siaddr.
dhcp-option-force=tag:pikelet-firmware,60,PXEClient
dhcp-option-force=tag:pikelet-firmware,43,%[1]s
dhcp-option-force=tag:pikelet-firmware,66,%[3]s
dhcp-boot=tag:pikelet-firmware,bootcode.bin,,%[3]s
# /init of a node without a card.
dhcp-vendorclass=set:pikelet-node,%[4]s
dhcp-option-force=tag:pikelet-node,60,%[4]s
dhcp-option-force=tag:pikelet-node,43,%[2]s
dhcp-boot=tag:pikelet-node,bootcode.bin,,%[3]s
`, hexOctets(menu()), hexOctets(bootapi.EncodePort(bootapi.Port)), server, bootapi.Class,
		hexOctets(append([]byte{0}, bytes.Repeat([]byte{id3B}, 16)...)), blocks.String())
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
