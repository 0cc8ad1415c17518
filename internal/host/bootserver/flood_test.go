package bootserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/pikelet-os/pikelet/internal/host/bootserver/dhcp"
	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
)

const pxe = "PXEClient:Arch:00000:UNDI:002001"

// stranger sends message number i of a flood: a Pi with a serial of its own, a
// boot ROM that says none, or a PC.
func (s *stage) stranger(i int) (*dhcpv4.DHCPv4, error) {
	s.t.Helper()
	mac := net.HardwareAddr{0x02, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
	with := []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptClassIdentifier(pxe))}
	switch id := make([]byte, 17); i % 3 {
	case 0:
		copy(id[1:], "RPi4")
		binary.LittleEndian.PutUint32(id[13:], uint32(i))
		with = append(with, dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, id)))
	case 1:
		copy(id[1:], strings.Repeat("D", 16))
		with = append(with, dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, id)))
	}
	m, err := dhcpv4.NewDiscovery(mac, with...)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.lease(m, netip.IPv4Unspecified())
}

// TestFloodOfUnknownMachinesIsBounded: thirty thousand requests arrive in three
// seconds, each from another machine. The memory they cost is bounded, and an
// adopted Pi gets its address and its turn at once, also where no packet names
// its model.
func TestFloodOfUnknownMachinesIsBounded(t *testing.T) {
	s := newStage(t)
	s.Roster, s.Most = some{piMAC}, 2
	s.Pool = &Pool{First: netip.MustParseAddr("10.0.0.50"), Last: netip.MustParseAddr("10.0.0.250"), Network: dhcp.Network{Bits: 24}}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	full := 0
	h := hostile{s, otherIP, otherMAC}
	for i := range 30_000 {
		if i%3000 == 0 { // and in the name of the one that is adopted
			if got := h.speaksFor(piSerial, piMAC, "build1", piIP); len(got) > 0 {
				t.Fatalf("it has %q", got)
			}
		}
		s.now = s.now.Add(100 * time.Microsecond)
		if _, err := s.stranger(i); err != nil {
			full++
			s.log(slog.LevelWarn, "dhcp", err.Error())
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("%d bytes more are in use", grown)
	}
	if full < 9_000 {
		t.Errorf("only %d found no address", full)
	}
	if n := len(s.logged); n > 3*(burst+2*4*rate) { // of DHCP, TFTP and HTTP
		t.Errorf("%d lines were said", n)
	}
	for name, id := range map[string]string{
		"a Pi 4":        "\x00RPi4\x14\x31\xc0\x00\xdd\x01\x02\x03\x70\x73\x61\x52",
		"the ROM of 3B": "\x00" + strings.Repeat("D", 16),
	} {
		if got := offer(t, s, piMAC, id, pxe); got == nil || got.YourIPAddr.IsUnspecified() {
			t.Errorf("%s got %v", name, got)
		}
		s.now = s.now.Add(silentBoot + time.Second)
	}
	if _, err := s.fetch(piIP, "52617370/config.txt"); err != nil {
		t.Error(err)
	}
	if h := s.health(Machine{Serial: piSerial, MAC: piMAC}); len(h.Bad) > 0 || h.Starts > 0 {
		t.Errorf("%+v", h)
	}
}

// TestDroppedLogLinesAreCounted: what was left out is said, as a number.
func TestDroppedLogLinesAreCounted(t *testing.T) {
	s := newStage(t)
	for range burst + 50 {
		s.log(slog.LevelInfo, "dhcp", "x")
	}
	s.log(slog.LevelInfo, "config", "of another kind")
	s.now = s.now.Add(time.Second)
	s.log(slog.LevelInfo, "dhcp", "y")
	if got := s.logged[len(s.logged)-3:]; got[0] != "config: of another kind" || got[1] != "dhcp: dropped log lines count=50" ||
		got[2] != "dhcp: y" {
		t.Errorf("%q", got)
	}
}

// TestOffersAreBrief: who only asks has an address for a minute; who takes it
// for longer, and no one gets it from him; one that somebody else has is left
// alone.
func TestOffersAreBrief(t *testing.T) {
	now := time.Unix(1700000000, 0)
	one := netip.MustParseAddr("10.0.0.50")
	p := &Pool{First: one, Last: one, Network: dhcp.Network{Bits: 24}}
	a, b, pi := Machine{MAC: "a"}, Machine{MAC: "b"}, Machine{MAC: "pi"}
	gives := func(m Machine, is standing, keeps, want bool) {
		t.Helper()
		_, err := p.offer(m, is, now)
		if keeps {
			_, err = p.take(m, is, one, now)
		}
		if (err == nil) != want {
			t.Errorf("%s: %v", m.MAC, err)
		}
	}
	gives(a, stranger, false, true)
	gives(b, stranger, false, false)
	now = now.Add(offerTime + time.Second)
	gives(b, stranger, false, true)
	gives(pi, listed, false, true) // a listed one comes first
	gives(b, stranger, true, false)
	now = now.Add(offerTime + time.Second)
	gives(b, stranger, true, true)
	p.released("b", one)
	gives(pi, listed, true, true)
	p.released("b", one)
	gives(b, stranger, true, false)
	p.declined("pi", one, now)
	gives(pi, listed, true, false)
	now = now.Add(declinedTime + time.Second)
	gives(pi, listed, true, true)
}

// TestBootROMsComeFirst: it gives up soon, so it does not wait behind those that never
// do; nor is it held up a second time on one boot.
func TestBootROMsComeFirst(t *testing.T) {
	var l line
	now := time.Unix(1700000000, 0)
	l.admit("x", false, 1, now)
	for _, mac := range []string{"a", "b"} {
		l.admit(mac, false, 1, now)
	}
	if l.admit("pi3", true, 1, now) {
		t.Fatal("two at a time")
	}
	l.done("x")
	if l.admit("a", false, 1, now) {
		t.Error("a went before the Pi 3")
	}
	if !l.admit("pi3", true, 1, now) {
		t.Error("the Pi 3 waits")
	}
	l.done("pi3")
	if !l.admit("a", false, 1, now) {
		t.Error("a is passed by")
	}

	s := newStage(t)
	s.Most = 1
	rom := "\x00" + strings.Repeat("D", 16)
	if offer(t, s, piMAC, rom, pxe) == nil {
		t.Fatal("a ROM that nothing is known of is not answered")
	}
	if offer(t, s, otherMAC, rom, pxe) != nil {
		t.Error("a second one did not wait")
	}
	s.lines[listed].begin("another", s.now) // the line of those that are known is full
	if offer(t, s, piMAC, "\x00"+strings.Repeat("\x70\x73\x61\x52", 4), pxe) == nil {
		t.Error("held up in the midst of a boot")
	}
}

// TestConnectionsAreBounded: one client has so many connections and no more;
// another's are not its affair. What is sent by parts arrives as it is.
func TestConnectionsAreBounded(t *testing.T) {
	s := newStage(t)
	big := bounded(nil, time.Now, planeConns)
	for i := range planeConns.all {
		if !big.take(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})) {
			t.Fatal(i)
		}
	}
	if big.take(piIP) {
		t.Error("there is no bound")
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	go s.serveHTTP(ctx, bounded(l, time.Now, planeConns), s.Plane())
	var conns []net.Conn
	for i := range planeConns.ofClient + 1 {
		c, err := net.Dial("tcp4", l.Addr().String())
		if err != nil && i == planeConns.ofClient {
			continue // hung up on before it was through
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
		ask := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: x\r\n\r\n", bootapi.Request{Kind: bootapi.Manifest, Machine: pi}.Encode())
		io.WriteString(c, ask)
		c.SetReadDeadline(time.Now().Add(hang))
		if _, err := c.Read(make([]byte, 1)); (err == nil) != (i < planeConns.ofClient) {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	conns[0].Close()
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp4", l.Addr().String()); err == nil {
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			_, err = c.Read(make([]byte, 1))
			c.Close()
			if err == nil {
				break
			}
		}
		if time.Since(start) > hang {
			t.Fatal("a place that is free again is not given")
		}
	}
}

// TestAdminConnectionsAreBounded: also before a token was asked for. What other
// machines open does not lock out who sits at this one.
func TestAdminConnectionsAreBounded(t *testing.T) {
	s := newStage(t)
	s.Now = time.Now
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &Admin{Server: s.Server, Token: "0123456789abcdef", Free: func() []string { return nil }}
	go a.ServeAdmin(t.Context(), l)
	for i := range adminConns.ofClient + 1 {
		c, err := net.Dial("tcp4", l.Addr().String())
		if err != nil && i == adminConns.ofClient {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		c.SetReadDeadline(time.Now().Add(hang))
		if _, err := c.Read(make([]byte, 1)); (err == nil) != (i < adminConns.ofClient) {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	full := bounded(nil, time.Now, adminConns)
	for i := range adminConns.all {
		if !full.take(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})) {
			t.Fatal(i)
		}
	}
	if full.take(otherIP) {
		t.Error("there is no bound for all together")
	}
	if !full.take(netip.MustParseAddr("127.0.0.1")) {
		t.Error("others lock out this machine")
	}
	full.give(netip.MustParseAddr("127.0.0.1"))
	if full.take(otherIP) {
		t.Error("what this machine gives back is another's")
	}
}

// hang is longer than anything takes on a busy machine: what waits so long
// never ends.
const hang = 10 * time.Minute

// TestSlowReaders: who asks for much and reads nothing is hung up on, whichever
// way it is sent; who reads has all of it.
func TestSlowReaders(t *testing.T) {
	big := make([]byte, 32<<20)
	name := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(name, big, 0o600); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := func() error {
			if r.URL.Path == "/bytes" {
				_, err := w.Write(big)
				return err
			}
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			w.Header().Set("Content-Length", fmt.Sprint(len(big)))
			_, err = io.Copy(w, f)
			return err
		}()
		ended <- err
	})
	serve := func(slow time.Duration) string {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		b := bounded(l, time.Now, planeConns)
		b.slow = slow
		go newStage(t).serveHTTP(t.Context(), b, handler)
		return l.Addr().String()
	}
	impatient, patient := serve(200*time.Millisecond), serve(hang) // this machine may be slow as well
	for _, path := range []string{"/bytes", "/file"} {
		c, err := net.Dial("tcp4", impatient)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		select {
		case err := <-ended:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s to one that reads nothing ended with %v", path, err)
			}
		case <-time.After(hang):
			t.Fatalf("%s to one that reads nothing does not end", path)
		}
		r, err := http.Get("http://" + patient + path)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, r.Body)
		r.Body.Close()
		if n != int64(len(big)) || err != nil {
			t.Errorf("%s: %d bytes, %v", path, n, err)
		}
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}
