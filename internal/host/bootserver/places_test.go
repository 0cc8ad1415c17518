package bootserver

import (
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
)

// client is a socket of a TFTP client.
func client(t *testing.T, ip netip.Addr) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: ip.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// hears returns the next packet that a client gets; "" where none comes in time.
func hears(c *net.UDPConn, patience time.Duration) string {
	b := make([]byte, 1500)
	c.SetReadDeadline(time.Now().Add(patience))
	n, err := c.Read(b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}

// asks sends a request again and again until something is heard: a server's
// socket drops what comes while its buffer is full.
func asks(c *net.UDPConn, at net.Addr, request string) (got string) {
	for start := time.Now(); got == "" && time.Since(start) < hang; {
		c.WriteTo([]byte(request), at)
		got = hears(c, time.Second)
	}
	return got
}

// serveFiles starts TFTP on a port of this machine.
func (s *stage) serveFiles() net.Addr {
	s.t.Helper()
	s.Now = time.Now
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		s.t.Fatal(err)
	}
	go s.serveTFTP(s.t.Context(), conn)
	return conn.LocalAddr()
}

// TestTransfersOfKnownMachines: strangers fill all transfers that they can have, and
// so do those that say a listed serial; a machine whose hardware address is named
// has its file at once.
func TestTransfersOfKnownMachines(t *testing.T) {
	s := newStage(t)
	s.Roster = inventory{known: func(m Machine) (string, bool) {
		if m.Serial == piSerial {
			return piMAC, true
		}
		return "", m.Serial == "00000001"
	}}
	pi := netip.MustParseAddr("127.0.0.2")
	s.macs[pi] = piMAC
	for i := range 32 {
		s.macs[netip.AddrFrom4([4]byte{127, 0, 1, byte(i)})] = otherMAC
	}
	at := s.serveFiles()
	for i := range 32 {
		for range 16 {
			name := "bootcode.bin"
			if i >= 16 {
				name = "00000001/vmlinuz"
			}
			// Each is answered before the next asks: of a burst, the socket drops some.
			asks(client(t, netip.AddrFrom4([4]byte{127, 0, 1, byte(i)})), at, "\x00\x01"+name+"\x00octet\x00")
		}
	}
	last := client(t, netip.MustParseAddr("127.0.1.31"))
	if got := asks(last, at, "\x00\x0100000001/vmlinuz\x00octet\x00"); len(got) < 2 || got[1] != 5 {
		t.Fatalf("the places of others are not full: %q", got)
	}
	c := client(t, pi)
	if got := asks(c, at, "\x00\x0152617370/config.txt\x00octet\x00"); got != "\x00\x03\x00\x01arm_64bit=1\n" {
		t.Errorf("a known machine got %q", got)
	}
}

// TestUnknownHardwareAddress: a client without a known hardware address gets no
// file, and an answer no longer than its request: the packet may be forged.
func TestUnknownHardwareAddress(t *testing.T) {
	s := newStage(t)
	at := s.serveFiles()
	for _, name := range []string{"52617370/vmlinuz", "bootcode.bin", "d8-3a-dd-01-02-03/vmlinuz"} {
		request := "\x00\x01" + name + "\x00octet\x00"
		c := client(t, netip.MustParseAddr("127.9.9.9"))
		c.WriteTo([]byte(request), at)
		got := hears(c, 20*time.Second)
		if more := hears(c, 700*time.Millisecond); len(got) < 2 || got[1] != 5 || len(got)+len(more) > len(request) {
			t.Errorf("%q is answered by %q and %q", request, got, more)
		}
	}
	if n := s.Nodes(); len(n) != 0 {
		t.Errorf("known is %+v", n)
	}
}

// TestHardwareAddressPrefixMustMatch: a file's name that begins with another machine's hardware
// address gives nothing, and tells nothing of that machine.
func TestHardwareAddressPrefixMustMatch(t *testing.T) {
	s := newStage(t)
	s.Roster = some{piMAC}
	if got, err := s.fetch(otherIP, "d8-3a-dd-01-02-03/config.txt"); err == nil {
		t.Errorf("it got %q", got)
	}
	if n := s.Nodes(); len(n) != 0 {
		t.Errorf("known is %+v", n)
	}
	if _, err := s.fetch(piIP, "d8-3a-dd-01-02-03/config.txt"); err != nil {
		t.Error(err)
	}
}

// TestShareOfRequest: whose part of the transfers a request takes is decided by
// all that is known of the machine, as whether it is served is.
func TestShareOfRequest(t *testing.T) {
	s := newStage(t)
	s.Roster = inventory{known: func(m Machine) (string, bool) {
		if m.Serial == piSerial {
			return piMAC, true
		}
		return "", m.Model == "RPi5"
	}}
	s.nodes.note(Machine{Serial: "00000005", MAC: otherMAC, Model: "RPi5"}, s.standing)
	s.nodes.note(Machine{Serial: piSerial, MAC: piMAC}, s.standing)
	for _, c := range []struct {
		ip   netip.Addr
		name string
		want standing
	}{
		{piIP, piSerial + "/config.txt", pinned}, {piIP, "config.txt", pinned}, {piIP, "00000009/config.txt", stranger},
		{otherIP, piSerial + "/config.txt", stranger}, {otherIP, "00000005/config.txt", listed}, {otherIP, "config.txt", listed},
		{netip.MustParseAddr("10.0.0.99"), piSerial + "/config.txt", stranger},
	} {
		if got := s.share(c.ip, c.name); got != int(c.want) {
			t.Errorf("%s from %s counts to share %d, want %d", c.name, c.ip, got, c.want)
		}
	}
}

// TestSerialKnownAfterDHCP: firmware that names its files by its hardware address, and
// whose DHCP was not seen, says its serial with its claim.
func TestSerialKnownAfterDHCP(t *testing.T) {
	s := newStage(t)
	s.Roster = some{piMAC}
	for _, name := range []string{"config.txt", "vmlinuz", "initramfs"} {
		if _, err := s.fetch(piIP, "d8-3a-dd-01-02-03/"+name); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{http.StatusOK, http.StatusForbidden} {
		if status, text := s.asks(piIP, configOf(piMAC)); status != want {
			t.Errorf("its config: %d %s", status, text)
		}
	}
	if status, text := s.asks(piIP, bootapi.Request{Kind: bootapi.Progress, Machine: pi}); status != http.StatusNoContent {
		t.Errorf("its report: %d %s", status, text)
	}
	if n := s.Nodes(); len(n) != 1 || n[0].Serial != piSerial || n[0].Stage != string(bootapi.Started) {
		t.Errorf("%+v", n)
	}
}
