package bootserver

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/pikelet-os/pikelet/internal/host/bootserver/dhcp"
	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

func TestFirmwareGetsItsFiles(t *testing.T) {
	s := newStage(t)
	// In this order: what has no prefix is known by the address it comes from.
	for _, c := range []struct{ name, want string }{
		{"52617370/config.txt", "arm_64bit=1\n"}, {"52617370/cmdline.txt", "pikelet.slot=net\n"}, {"d8-3a-dd-01-02-03/cmdline.txt",
			"pikelet.slot=net\n"},
		{"/52617370/overlays/x.dtbo", "an overlay"}, {"config.txt", "arm_64bit=1\n"}, {"bootcode.bin", "first stage"},
	} {
		if got, err := s.fetch(piIP, c.name); err != nil || got != c.want {
			t.Errorf("%s: %.20q, %v; want %q", c.name, got, err, c.want)
		}
	}
	for _, name := range []string{
		"52617370/root.squashfs", "52617370/pieeprom.upd", "52617370/overlays/recovery.bin", "pieeprom.upd", "52617370/cmdline-a.txt",
		"52617370/start4.elf",
		"52617370/../../etc/passwd", "../etc/passwd", "52617370//etc/passwd", "52617370/.", "52617370/", "", "/",
		"52617370/overlays/../config.txt", "52617370/config.txt\x00x",
		"99999999/config.txt",
	} {
		if got, err := s.fetch(piIP, name); err == nil {
			t.Errorf("%q was sent: %.20q", name, got)
		}
	}
	if got, err := s.fetch(otherIP, "config.txt"); err == nil {
		t.Errorf("an unknown machine got %q", got)
	}
	if got, err := s.fetch(otherIP, "bootcode.bin"); err != nil || got != "first stage" {
		t.Errorf("a ROM that has not said its serial yet got %q, %v", got, err)
	}
}

// TestConfigRule: each line of the rule that says who gets a config.
func TestConfigRule(t *testing.T) {
	config := bootapi.Request{Kind: bootapi.Config, Machine: pi}
	refused := func(s *stage, from netip.Addr, m bootapi.Machine, why string) {
		t.Helper()
		status, text := s.asks(from, bootapi.Request{Kind: bootapi.Config, Machine: m})
		if status != http.StatusForbidden || !strings.Contains(text, why) || strings.Contains(text, "seed") {
			t.Errorf("%d %q, want it refused with %q", status, text, why)
		}
		if len(s.logged) == 0 || !strings.Contains(s.logged[len(s.logged)-1], why) {
			t.Errorf("it was not logged: %q", s.logged)
		}
	}
	s := newStage(t)
	refused(s, piIP, pi, "no boot of serial 52617370 was served from here to d8:3a:dd:01:02:03")
	s.boots()
	unknown := pi
	unknown.Serial = "1000000099999999"
	refused(s, piIP, unknown, "not adopted")
	refused(s, otherIP, pi, "the request names hardware address d8:3a:dd:01:02:03; 10.0.0.66 has d8:3a:dd:0a:0b:0c")
	s.macs[otherIP] = piMAC // the machine moved
	refused(s, otherIP, pi, "was served to 10.0.0.50, not to 10.0.0.66")
	s.macs[otherIP] = otherMAC
	// Another machine that took the address, with its own MAC and with the Pi's
	// word for it.
	s.macs[piIP] = otherMAC
	refused(s, piIP, pi, "the request names hardware address d8:3a:dd:01:02:03; 10.0.0.50 has d8:3a:dd:0a:0b:0c")
	liar := pi
	liar.MAC = otherMAC
	refused(s, piIP, liar, "no boot of serial 52617370 was served from here to d8:3a:dd:0a:0b:0c")
	delete(s.macs, piIP)
	refused(s, piIP, pi, "unknown hardware address of the client")
	shown := 0
	for _, n := range s.Nodes() {
		if strings.Contains(n.Error, "refused") {
			shown++
		}
	}
	if shown != 3 {
		t.Errorf("%d machines are shown as refused: %+v", shown, s.Nodes())
	}
	s.macs[piIP] = piMAC
	s.now = s.now.Add(claimTime)
	if status, text := s.asks(piIP, config); status != 200 || text != "hostname: attic\nseed: \"52617370\"\n" {
		t.Errorf("%d %q", status, text)
	}
	refused(s, piIP, pi, "claimed on this boot already")
	s.boots()
	s.now = s.now.Add(claimTime + 1)
	refused(s, piIP, pi, "more than 2m0s")
	s.boots()
	if status, _ := s.asks(piIP, config); status != 200 {
		t.Errorf("%d on the next boot", status)
	}
	// An inventory that says which address the serial has.
	s = newStage(t)
	s.boots()
	s.Roster = some{otherMAC}
	refused(s, piIP, pi, "serial 52617370 has hardware address d8:3a:dd:0a:0b:0c; 10.0.0.50 has d8:3a:dd:01:02:03")
}

func TestBootAPI(t *testing.T) {
	s := newStage(t)
	s.boots()
	root := bootapi.Request{Kind: bootapi.Blob, Machine: pi, Digest: image.DigestOf(s.files["root.squashfs"])}
	said, err := s.Images.Current("stable").Signature.Encode()
	if err != nil {
		t.Fatal(err)
	}
	signature := string(said)
	for _, c := range []struct {
		q      bootapi.Request
		head   []string
		status int
		want   string
	}{
		{bootapi.Request{Kind: bootapi.Manifest, Machine: pi}, nil, 200, "the manifest"},
		{bootapi.Request{Kind: bootapi.Signature, Machine: pi}, nil, 200, signature},
		{root, nil, 200, string(s.files["root.squashfs"])},
		{root, []string{"Range", "bytes=249990-"}, 206, string(s.files["root.squashfs"][249990:])},
		{root, []string{"Range", "bytes=999999-"}, 416, "invalid range: failed to overlap\n"},
		{bootapi.Request{Kind: bootapi.Blob, Machine: pi, Digest: image.DigestOf(nil)}, nil, 404, image.DigestOf(nil) +
			" not found in small 1.2\n"},
		{bootapi.Request{Kind: bootapi.Manifest, Machine: bootapi.Machine{Serial: "1", MAC: piMAC, Build: "old"}}, nil, 404,
			"build old is no longer served: restart\n"},
		{bootapi.Request{Kind: bootapi.Progress, Machine: pi}, nil, 204, ""},
	} {
		if status, text := s.asks(piIP, c.q, c.head...); status != c.status || text != c.want {
			t.Errorf("%s: %d %.60q, want %d %.60q", c.q.Kind, status, text, c.status, c.want)
		}
	}
	if n := s.Nodes(); len(n) != 1 || n[0].Stage != "started" || n[0].Release != "1.2" || n[0].IP != "10.0.0.50" {
		t.Errorf("%+v", n)
	}
	if status, _ := s.asks(otherIP, bootapi.Request{Kind: bootapi.Progress, Machine: pi}); status != http.StatusForbidden {
		t.Errorf("another machine's report was taken: %d", status)
	}
	for _, bad := range []struct{ method, url, body string }{
		{"GET", "/", ""}, {"GET", "/v1/nodes", ""}, {"POST", "/v1/config?serial=1&mac=d8:3a:dd:01:02:03&build=build1", ""}, {"DELETE",
			root.Encode(), ""},
		{"GET", "/v1/blob/../../../etc/passwd?serial=1&mac=d8:3a:dd:01:02:03&build=build1", ""},
		{"POST", bootapi.Request{Kind: bootapi.Progress, Machine: pi}.Encode(), strings.Repeat("x", bootapi.MaxReport+1)},
		{"POST", bootapi.Request{Kind: bootapi.Progress, Machine: pi}.Encode(), `{"stage":"king"}`},
	} {
		r := httptest.NewRequest(bad.method, bad.url, strings.NewReader(bad.body))
		r.RemoteAddr = netip.AddrPortFrom(piIP, 40000).String()
		w := httptest.NewRecorder()
		s.Plane().ServeHTTP(w, r)
		if w.Code < 400 || w.Code >= 500 {
			t.Errorf("%s %.40s: %d", bad.method, bad.url, w.Code)
		}
	}
}

// TestDamagedBlob: a file that is not as long as it was is not sent as if it
// were.
func TestDamagedBlob(t *testing.T) {
	s := newStage(t)
	f, _ := s.Images.Current("stable").File("vmlinuz")
	if err := os.Truncate(s.Images.Current("stable").Source.(image.Blobs).Path(f.Digest), 10); err != nil {
		t.Fatal(err)
	}
	if _, err := s.fetch(piIP, "52617370/vmlinuz"); err == nil || !strings.Contains(strings.Join(s.logged, "\n"),
		"opening vmlinuz of small 1.2") {
		t.Errorf("%v, %q", err, s.logged)
	}
}

func offer(t *testing.T, s *stage, mac string, id string, class string) *dhcpv4.DHCPv4 {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	m, err := dhcpv4.NewDiscovery(hw, dhcpv4.WithOption(dhcpv4.OptClassIdentifier(class)),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, []byte(id))))
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.lease(m, netip.IPv4Unspecified())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestAnsweredMachines: with addresses to give everybody gets one, but a Pi that
// is not adopted, which would only fail to boot; beside another server no one
// hears anything but Pis that are.
func TestAnsweredMachines(t *testing.T) {
	const class = "PXEClient:Arch:00000:UNDI:002001"
	adopted, stranger := "\x00RPi4\x14\x31\xc0\x00\xdd\x01\x02\x03\x70\x73\x61\x52", "\x00RPi4\x14\x31\xc0\x00\xdd\x0a\x0b\x0c\x99\x99\x99\x99"
	for _, proxy := range []bool{false, true} {
		s := newStage(t)
		if !proxy {
			s.Pool = &Pool{First: netip.MustParseAddr("10.0.0.50"), Last: netip.MustParseAddr("10.0.0.59"), Network: dhcp.Network{Bits: 24}}
		}
		if got := offer(t, s, piMAC, adopted, class); got == nil || got.YourIPAddr.IsUnspecified() != proxy ||
			got.ClassIdentifier() != "PXEClient" {
			t.Errorf("proxy %v: an adopted Pi got %v", proxy, got)
		}
		if got := offer(t, s, otherMAC, stranger, class); got != nil {
			t.Errorf("proxy %v: an unknown Pi got %v", proxy, got)
		}
		if got := offer(t, s, "00:11:22:33:44:55", "a PC's", class); (got == nil) != proxy {
			t.Errorf("proxy %v: a PC got %v", proxy, got)
		}
		if got := offer(t, s, piMAC, "", bootapi.Class); got == nil || got.ClassIdentifier() != bootapi.Class {
			t.Errorf("proxy %v: the node got %v", proxy, got)
		}
		var waits bool
		for _, n := range s.Nodes() {
			waits = waits || n.Serial == "99999999" && !n.Adopted && n.Stage == "waits to be adopted"
		}
		if !waits {
			t.Errorf("proxy %v: the unknown Pi is not shown: %+v", proxy, s.Nodes())
		}
	}
}

// TestPool: a machine keeps its address, also when the server forgot all of
// them; two never share one; a pool that is full says so.
func TestPool(t *testing.T) {
	pool := func() *Pool {
		return &Pool{First: netip.MustParseAddr("10.0.0.50"), Last: netip.MustParseAddr("10.0.0.59"), Network: dhcp.Network{Bits: 24}}
	}
	gives := func(p *Pool, m Machine, now time.Time) (netip.Addr, error) {
		a, err := p.offer(m, listed, now)
		if err != nil {
			return a, err
		}
		return p.take(m, listed, a, now)
	}
	now := time.Unix(1700000000, 0)
	p, had := pool(), map[netip.Addr]int{}
	for i := range 10 {
		m := Machine{MAC: fmt.Sprintf("d8:3a:dd:00:00:%02x", i)}
		a, err := gives(p, m, now)
		if err != nil || a.Less(p.First) || p.Last.Less(a) {
			t.Fatal(a, err)
		}
		if _, taken := had[a]; taken {
			t.Errorf("%v was given twice", a)
		}
		had[a] = i
		if again, err := gives(p, m, now.Add(time.Hour)); err != nil || again != a {
			t.Errorf("%v, and then %v (%v)", a, again, err)
		}
	}
	late := Machine{MAC: "d8:3a:dd:00:00:ff"}
	if a, err := gives(p, late, now.Add(2*time.Hour)); err == nil {
		t.Errorf("an eleventh got %v", a)
	}
	if _, err := gives(p, late, now.Add(2*leaseTime)); err != nil {
		t.Errorf("leases do not end: %v", err)
	}
	first, _ := gives(pool(), late, now)
	if again, _ := gives(pool(), late, now); again != first {
		t.Errorf("a server that forgot gave %v instead of %v", again, first)
	}
	fixed := pool()
	fixed.Fixed = func(m Machine) (netip.Addr, bool) { return netip.MustParseAddr("10.0.0.7"), m.Serial == "52617370" }
	if a, err := gives(fixed, Machine{Serial: "52617370"}, now); err != nil || a.String() != "10.0.0.7" {
		t.Errorf("%v %v", a, err)
	}
}

// TestUnknownMachinesAreBounded: the number of unknown machines that are kept is
// bounded, and they displace no adopted machine.
func TestUnknownMachinesAreBounded(t *testing.T) {
	s := newStage(t)
	s.boots()
	for i := range 3 * maxNodes {
		s.now = s.now.Add(time.Second)
		s.mu.Lock()
		s.seen(Machine{Serial: fmt.Sprintf("%08x", i), MAC: fmt.Sprintf("d8:3a:%02x:%02x:%02x:00", i>>16, i>>8&255, i&255)}, "asks")
		s.mu.Unlock()
	}
	if n := len(s.Nodes()); n > maxNodes {
		t.Errorf("%d are remembered", n)
	}
	if status, _ := s.asks(piIP, bootapi.Request{Kind: bootapi.Config, Machine: pi}); status == http.StatusOK {
		t.Error("too late, and it was given") // the clock went on by hours
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes.find(Machine{Serial: "52617370", MAC: piMAC}); n == nil || n.served.IsZero() {
		t.Error("the adopted one was forgotten")
	}
}

func FuzzNames(f *testing.F) {
	f.Add("52617370/config.txt")
	f.Add("d8-3a-dd-01-02-03/overlays/../../x")
	f.Fuzz(func(t *testing.T, name string) {
		s := newStage(t)
		file, _, err := s.open(piIP, name)
		if err != nil {
			return
		}
		b, err := io.ReadAll(io.NewSectionReader(file, 0, 1<<20))
		file.Close()
		if err != nil || bytes.Contains(b, []byte("poison")) || bytes.HasPrefix(b, []byte("root ")) {
			t.Fatalf("%q was sent as %.20q, %v", name, b, err)
		}
	})
}
