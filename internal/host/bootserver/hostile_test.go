package bootserver

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/pikelet-os/pikelet/internal/host/bootserver/dhcp"
	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// inventory is a roster by a function.
type inventory struct {
	some
	known func(Machine) (mac string, ok bool)
}

func (i inventory) Known(m Machine) (string, bool) { return i.known(m) }

const piSerial = "52617370"

// inventories are the ways in which a roster can mean the Pi.
func inventories(t *testing.T) map[string]Roster {
	adopted := keeper{&Records[Adoption]{Dir: filepath.Join(t.TempDir(), "adopted")}}
	if err := adopted.Put(piSerial, Adoption{As: "attic", MAC: piMAC}); err != nil {
		t.Fatal(err)
	}
	return map[string]Roster{
		"serial and MAC": inventory{known: func(m Machine) (string, bool) { return piMAC, m.Serial == piSerial || m.MAC == piMAC }},
		"MAC alone":      inventory{known: func(m Machine) (string, bool) { return piMAC, m.MAC == piMAC }},
		"serial alone":   inventory{known: func(m Machine) (string, bool) { return "", m.Serial == piSerial }},
		"adopted":        adopted,
	}
}

// message is a DHCP message of a machine whose packets come from an address.
func (s *stage) message(from netip.Addr, mac string, kind dhcpv4.MessageType, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	s.t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		s.t.Fatal(err)
	}
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(hw), dhcpv4.WithMessageType(kind)}, more...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	answer, _ := s.lease(m, from)
	return answer
}

// firmware are the options of a Pi 4 with a serial.
func firmware(serial string) dhcpv4.Modifier {
	var n uint32
	fmt.Sscanf(serial, "%08x", &n)
	id := append([]byte{0}, "RPi4\x14\x31\xc0\x00\xdd\x01\x02\x03"...)
	id = binary.LittleEndian.AppendUint32(id, n)
	return func(m *dhcpv4.DHCPv4) {
		m.UpdateOption(dhcpv4.OptClassIdentifier(pxe))
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, id))
	}
}

func wants(ip netip.Addr) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip.AsSlice()))
}

// hostile is a machine in the same network. It forges no address of its
// packets, and says whatever it wants in them.
type hostile struct {
	*stage
	ip  netip.Addr
	mac string
}

// speaksFor does all that a machine can do in the name of another: it asks for
// addresses, files and the config, and reports. It returns what it got of files
// and configs.
func (h hostile) speaksFor(serial, mac, build string, ip netip.Addr) (got []string) {
	h.macs[h.ip] = h.mac
	for _, from := range []string{h.mac, mac} { // of a release the message names whose
		h.message(h.ip, from, dhcpv4.MessageTypeRelease, dhcpv4.WithClientIP(ip.AsSlice()))
		h.message(h.ip, from, dhcpv4.MessageTypeDecline, wants(ip))
	}
	node := dhcpv4.WithOption(dhcpv4.OptClassIdentifier(bootapi.Class))
	for _, as := range []dhcpv4.Modifier{firmware(serial), node, func(*dhcpv4.DHCPv4) {}} {
		h.message(h.ip, h.mac, dhcpv4.MessageTypeDiscover, as)
		h.message(h.ip, h.mac, dhcpv4.MessageTypeRequest, as, wants(ip))
	}
	dashes := strings.ReplaceAll(mac, ":", "-")
	for _, name := range []string{"config.txt", "vmlinuz", "initramfs", "cmdline.txt", "x"} {
		for _, prefix := range []string{serial + "/", dashes + "/", ""} {
			if _, err := h.fetch(h.ip, prefix+name); err == nil {
				got = append(got, prefix+name)
			}
		}
	}
	for _, says := range []string{h.mac, mac} {
		m := bootapi.Machine{Serial: "10000000" + serial, MAC: says, Build: build}
		if status, text := h.asks(h.ip, bootapi.Request{Kind: bootapi.Config, Machine: m}); status == http.StatusOK {
			got = append(got, text)
		}
		for _, stage := range []bootapi.Stage{bootapi.Verified, bootapi.Started, bootapi.Healthy, bootapi.Unhealthy, bootapi.Failed} {
			report := bootapi.Report{Stage: stage, Release: "6.6", Error: "so it says"}
			h.post(h.ip, bootapi.Request{Kind: bootapi.Progress, Machine: m}, string(report.Encode()))
		}
		h.asks(h.ip, bootapi.Request{Kind: bootapi.Current, Machine: m})
	}
	return got
}

// release makes another release the current one.
func (s *stage) release(number string) {
	first := s.Images.Current("stable")
	m := *first.Manifest
	m.Release, m.BuildID = number, "build-of-"+number
	s.Images.Set("stable", &image.Image{Manifest: &m, Text: []byte(number), Digest: image.DigestOf([]byte(number)), Source: first.Source})
}

// life has the Pi boot some releases, and returns all it was told, and what is
// known of it then. between is called before each of its steps, with the build
// it boots and the address it has.
func (s *stage) life(between func(build string, ip netip.Addr)) (told []string) {
	s.t.Helper()
	build, ip := "build1", piIP
	tells := func(format string, args ...any) {
		told = append(told, fmt.Sprintf(format, args...))
		between(build, ip)
	}
	machine := func() bootapi.Machine {
		return bootapi.Machine{Serial: "10000000" + piSerial, MAC: piMAC, Build: build}
	}
	address := func(as dhcpv4.Modifier) {
		offer := s.message(netip.IPv4Unspecified(), piMAC, dhcpv4.MessageTypeDiscover, as)
		if offer == nil {
			s.t.Fatalf("no offer after %q", told)
		}
		ip, _ = netip.AddrFromSlice(offer.YourIPAddr.To4())
		tells("offer %s %x", ip, offer.Options.ToBytes())
		answer := s.message(netip.IPv4Unspecified(), piMAC, dhcpv4.MessageTypeRequest, as, wants(ip))
		s.macs[ip] = piMAC
		tells("answer %v", answer.MessageType())
	}
	boots := func(reports ...bootapi.Stage) {
		s.now = s.now.Add(5 * time.Minute)
		address(firmware(piSerial))
		for _, name := range []string{"config.txt", "vmlinuz", "initramfs", "cmdline.txt", "nothing"} {
			got, err := s.fetch(ip, piSerial+"/"+name)
			tells("%s %d %v", name, len(got), err)
			s.now = s.now.Add(time.Second)
		}
		build = s.nodes.find(Machine{Serial: piSerial, MAC: piMAC}).build
		address(dhcpv4.WithOption(dhcpv4.OptClassIdentifier(bootapi.Class)))
		for range 2 {
			status, text := s.asks(ip, bootapi.Request{Kind: bootapi.Config, Machine: machine()})
			tells("config %d %s", status, text)
		}
		for _, stage := range reports {
			report := bootapi.Report{Stage: stage, Release: "1"}
			status, text := s.post(ip, bootapi.Request{Kind: bootapi.Progress, Machine: machine()}, string(report.Encode()))
			tells("%s %d %s", stage, status, text)
		}
		status, text := s.asks(ip, bootapi.Request{Kind: bootapi.Current, Machine: machine()})
		tells("current %d %s", status, text)
	}
	tells("it is off")
	boots(bootapi.Verified, bootapi.Started, bootapi.Healthy)
	s.release("1.3")
	boots(bootapi.Verified, bootapi.Unhealthy)
	boots(bootapi.Healthy)
	s.release("1.4")
	for range maxStarts - 1 { // its power is cut
		boots()
	}
	boots(bootapi.Healthy)
	n := *s.nodes.find(Machine{Serial: piSerial, MAC: piMAC})
	tells("%+v", n)
	tells("%+v", s.health(n.Machine))
	for i, l := range s.lines {
		_, under := l.underWay[piMAC]
		tells("line %d: under way %v, waiting %v", i, under, slices.ContainsFunc(l.waiting, func(w waiter) bool { return w.mac == piMAC }))
	}
	return told
}

// TestSpoofedRequestsChangeNothing: before each step of a known Pi, another
// machine sends every possible request in the Pi's name from its own address.
// The Pi receives the same answers as without it, and the server knows the same
// of the Pi. Where the inventory names the Pi's hardware address, the other
// machine receives no file and no config.
func TestSpoofedRequestsChangeNothing(t *testing.T) {
	alone, beside := inventories(t), inventories(t)
	for name, roster := range alone {
		t.Run(name, func(t *testing.T) {
			run := func(r Roster, bad bool) (told, others []string) {
				s := newStage(t)
				s.Roster, s.Most = r, 1
				s.Pool = &Pool{First: netip.MustParseAddr("10.0.0.50"), Last: netip.MustParseAddr("10.0.0.59"), Network: dhcp.Network{Bits: 24}}
				delete(s.macs, piIP)
				h := hostile{s, otherIP, otherMAC}
				told = s.life(func(build string, ip netip.Addr) {
					if bad {
						others = append(others, h.speaksFor(piSerial, piMAC, build, ip)...)
					}
				})
				return told, others
			}
			want, _ := run(roster, false)
			got, others := run(beside[name], true)
			for i := range want {
				if i >= len(got) || got[i] != want[i] {
					t.Fatalf("after %q it is told\n%s\nand without the other\n%s", want[max(0, i-2):i], got[min(i, len(got)-1)], want[i])
				}
			}
			if name != "serial alone" && len(others) > 0 {
				t.Errorf("the other has %q", others)
			}
		})
	}
}

// TestStormWithSpoofedRequests: many known Pis boot at once, a few at a time,
// while a machine speaks for each of them from its own address. Every one boots,
// in a time that has room for no second try, and has its config.
func TestStormWithSpoofedRequests(t *testing.T) {
	const pis, most = 24, 4
	type one struct {
		serial, mac string
		ip          netip.Addr
		booted      bool
	}
	var all []*one
	macs := map[string]string{}
	for i := range pis {
		ip := netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + i)})
		p := &one{serial: fmt.Sprintf("000000%02x", i), mac: fmt.Sprintf("d8:3a:dd:00:00:%02x", i), ip: ip}
		macs[p.serial] = p.mac
		all = append(all, p)
	}
	s := newStage(t)
	s.Most = most
	s.Roster = inventory{known: func(m Machine) (string, bool) { mac, ok := macs[m.Serial]; return mac, ok }}
	h := hostile{s, otherIP, otherMAC}
	for range pis / most {
		s.now = s.now.Add(4 * time.Second)
		for _, p := range all {
			if got := h.speaksFor(p.serial, p.mac, "build1", p.ip); len(got) > 0 {
				t.Fatalf("it has %q of %s", got, p.serial)
			}
			s.macs[p.ip] = p.mac
			if p.booted || s.message(netip.IPv4Unspecified(), p.mac, dhcpv4.MessageTypeDiscover, firmware(p.serial)) == nil {
				continue
			}
			p.booted = true
		}
		for _, p := range all {
			if !p.booted || !s.lines[pinned].has(p.mac) {
				continue
			}
			for _, name := range []string{"vmlinuz", "initramfs"} {
				h.speaksFor(p.serial, p.mac, "build1", p.ip)
				if _, err := s.fetch(p.ip, p.serial+"/"+name); err != nil {
					t.Fatal(p.serial, err)
				}
			}
			h.speaksFor(p.serial, p.mac, "build1", p.ip)
			m := bootapi.Machine{Serial: p.serial, MAC: p.mac, Build: "build1"}
			if status, text := s.asks(p.ip, bootapi.Request{Kind: bootapi.Config, Machine: m}); status != http.StatusOK {
				t.Errorf("%s: its config: %d %s", p.serial, status, text)
			}
		}
	}
	for _, p := range all {
		if !p.booted {
			t.Errorf("%s did not boot", p.serial)
		}
	}
}

// TestAdoptionWithSpoofedRequests: a Pi waits to be adopted, and another machine
// says its serial, before and behind it. Both are shown; the one that is adopted
// is the one whose address was shown, and it boots.
func TestAdoptionWithSpoofedRequests(t *testing.T) {
	s, a := newAdmin(t)
	h := hostile{s, otherIP, otherMAC}
	speaks := func() {
		t.Helper()
		if got := h.speaksFor(piSerial, piMAC, "build1", piIP); len(got) > 0 {
			t.Fatalf("it has %q", got)
		}
	}
	speaks()
	s.message(netip.IPv4Unspecified(), piMAC, dhcpv4.MessageTypeDiscover, firmware(piSerial))
	speaks()
	found := map[string]Node{}
	for _, n := range s.Nodes() {
		found[n.MAC] = n
	}
	if len(found) != 2 || found[piMAC].Conflict != 1 || found[otherMAC].Conflict != 1 || found[piMAC].Stage != "waits to be adopted" {
		t.Fatalf("shown are %+v", found)
	}
	form := map[string][]string{"serial": {piSerial}, "mac": {found[piMAC].MAC}, "as": {"attic"}}
	if status, text, _ := ask(a, "POST", "/adopt", form); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, text)
	}
	speaks()
	for _, n := range s.Nodes() {
		if n.Adopted != (n.MAC == piMAC) {
			t.Errorf("%s is adopted: %v", n.MAC, n.Adopted)
		}
	}
	if s.message(netip.IPv4Unspecified(), piMAC, dhcpv4.MessageTypeDiscover, firmware(piSerial)) == nil {
		t.Error("the adopted machine is not answered")
	}
	s.boots()
	speaks()
	if status, text := s.asks(piIP, configOf(piMAC)); status != http.StatusOK || text != "hostname: attic\n" {
		t.Errorf("%d %q", status, text)
	}
}

// TestInvalidReportsAreIgnored: reports of a build that the machine was not
// served, and of a machine that is no longer known. Only a machine whose hardware
// address is known is told which release to run.
func TestInvalidReportsAreIgnored(t *testing.T) {
	s := newStage(t)
	s.Roster = some{piMAC}
	s.boots()
	before := s.health(Machine{Serial: piSerial, MAC: piMAC})
	s.release("1.3")
	refused := func(m bootapi.Machine) {
		t.Helper()
		report := bootapi.Report{Stage: bootapi.Unhealthy}
		status, text := s.post(piIP, bootapi.Request{Kind: bootapi.Progress, Machine: m}, string(report.Encode()))
		if h := s.health(Machine{Serial: piSerial, MAC: piMAC}); status != http.StatusForbidden || len(h.Bad) != len(before.Bad) {
			t.Errorf("%d %s; its health is %+v", status, text, h)
		}
	}
	another := pi
	another.Build = "build-of-1.3"
	refused(another)
	s.Roster = inventory{known: func(Machine) (string, bool) { return "", false }}
	refused(pi)
	current := bootapi.Request{Kind: bootapi.Current, Machine: pi}
	if status, text := s.asks(piIP, current); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
	delete(s.macs, piIP)
	if status, text := s.asks(piIP, current); status != http.StatusForbidden || !strings.Contains(text,
		"unknown hardware address of the client") {
		t.Errorf("%d %s", status, text)
	}
}
