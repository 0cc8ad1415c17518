package dhcp

import (
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// everybody is the broadcast address.
var everybody = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// Target returns the destination of the answer to a message (RFC 2131 section
// 4.1). mac is nil where the kernel can resolve ip: a broadcast, or a client that
// uses its address already. Otherwise the client does not answer ARP for ip yet,
// and the answer must be framed for mac. Relayed messages are answered by
// broadcast: boots work in the server's own network only.
func Target(m, answer *dhcpv4.DHCPv4) (ip netip.Addr, mac net.HardwareAddr) {
	ip, ok := netip.AddrFromSlice(answer.YourIPAddr.To4())
	if !ok || ip.IsUnspecified() || answer.MessageType() == dhcpv4.MessageTypeNak ||
		m.IsBroadcast() || m.GatewayIPAddr != nil && !m.GatewayIPAddr.IsUnspecified() {
		return everybody, nil
	}
	if m.ClientIPAddr.Equal(answer.YourIPAddr) {
		return ip, nil
	}
	return ip, m.ClientHWAddr
}
