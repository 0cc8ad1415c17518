package dhcp

import (
	"encoding/hex"
	"net/netip"
	"testing"
)

// TestDatagram holds datagrams to octets that another program made. Those of the
// last payload have a sum of 0, which UDP writes as 0xffff.
func TestDatagram(t *testing.T) {
	from, to := netip.MustParseAddrPort("10.0.0.1:67"), netip.MustParseAddrPort("10.0.0.50:68")
	for payload, want := range map[string]string{
		"offer":    "45000021000000004011669a0a0000010a00003200430044000da34e6f66666572",
		"even":     "45000020000000004011669b0a0000010a00003200430044000c20386576656e",
		"\xeb\x20": "4500001e000000004011669d0a0000010a00003200430044000affffeb20",
	} {
		if got := hex.EncodeToString(datagram([]byte(payload), from, to)); got != want {
			t.Errorf("%q: %s, want %s", payload, got, want)
		}
	}
}
