package checks

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// TestMissingInterfaces: ifup's failures are told; OpenRC counts
// networking as started all the same.
func TestMissingInterfaces(t *testing.T) {
	have := map[string]link{
		"lo":   {up: true, addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}},
		"eth0": {up: true, mtu: 1500, addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/8"), netip.MustParsePrefix("fd00::2/64")}},
		"eth1": {mtu: 1500},
	}
	for text, want := range map[string]string{
		"{name: eth0, addresses: [10.0.0.2/8, 'fd00:0::2/64'], mtu: 1500}": "",
		"{name: eth0}":                          "",
		"{name: eth0, addresses: [10.0.0.3/8]}": "eth0 does not have the address 10.0.0.3/8",
		"{name: eth0, mtu: 9000}":               "eth0 has mtu 1500, want 9000",
		"{name: eth1}":                          "eth1 is not up: ifup failed; ifup -f eth1 says why",
		"{name: eth0.20, addresses: [10.2.0.1/16]}": "eth0.20 is not there: is its name right, is " +
			"its driver in the image?",
		"{name: eth0}, {name: lo, addresses: [192.168.0.21/32]}":           "lo does not have the address 192.168.0.21/32",
		"{name: eth0}, {name: eth1, dhcp: false, bridge: {ports: [usb0]}}": "eth1 is not up: ifup failed; ifup -f eth1 says why",
		"{name: eth0, addresses: [10.0.0.2/8], bridge: {ports: [usb0]}}":   "usb0, a port of eth0, is not there",
	} {
		cfg, err := nodeconfig.Parse("n.yaml", []byte("network: {interfaces: ["+text+"]}"))
		if err != nil {
			t.Fatal(err)
		}
		if got := interfacesProblem(cfg.Network.Interfaces, have); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestGatewaysWithoutRoute(t *testing.T) {
	const table4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n" +
		"eth1\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
		"eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
	const table6 = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 " +
		"fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n" +
		"00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff " +
		"00000001 00000000 00200200       lo"
	for text, want := range map[string]string{
		"addresses: [192.168.1.2/24, 'fd00::2/64'], gateway: 192.168.1.1, gateway6: 'fe80::1'": "",
		"addresses: [192.168.1.2/24], gateway: 192.168.1.254": "no default route by " +
			"192.168.1.254, the gateway of eth0",
		"addresses: ['fd00::2/64'], gateway: 'fd00::1'": "no default route by " +
			"fd00::1, the gateway of eth0",
		"dhcp: true": "",
	} {
		cfg, err := nodeconfig.Parse("n.yaml", []byte("network: {interfaces: [{name: eth0, "+text+"}]}"))
		if err != nil {
			t.Fatal(err)
		}
		if got := gatewaysProblem(cfg.Network.Interfaces, table4, table6); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
