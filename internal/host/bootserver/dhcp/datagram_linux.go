package dhcp

import (
	"encoding/binary"
	"net/netip"
)

// Sizes of the headers of IPv4, without options, and UDP, and the protocol number
// of UDP (RFC 791, RFC 768).
const (
	ipHead    = 20
	udpHead   = 8
	udpNumber = 17
	hops      = 64
)

// datagram returns an IPv4 packet with a UDP datagram with the payload b.
func datagram(b []byte, from, to netip.AddrPort) []byte {
	p := make([]byte, ipHead+udpHead, ipHead+udpHead+len(b))
	ip, udp := p[:ipHead], p[ipHead:]
	ip[0] = 4<<4 | ipHead/4
	binary.BigEndian.PutUint16(ip[2:], uint16(len(p)+len(b)))
	ip[8], ip[9] = hops, udpNumber
	copy(ip[12:16], from.Addr().AsSlice())
	copy(ip[16:20], to.Addr().AsSlice())
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	binary.BigEndian.PutUint16(udp, from.Port())
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(udpHead+len(b)))
	// The checksum covers both addresses, the protocol and the length as well.
	summed := append([]byte{}, ip[12:20]...)
	summed = append(append(summed, 0, udpNumber), udp[4:6]...)
	sum := checksum(append(append(summed, udp...), b...))
	if sum == 0 {
		sum = 0xffff // 0 means no checksum
	}
	binary.BigEndian.PutUint16(udp[6:], sum)
	return append(p, b...)
}

// checksum is the Internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
