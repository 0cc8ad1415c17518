package roster

import (
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/host/bootserver"
	"github.com/pikelet-os/pikelet/internal/host/provision"
)

func newRoster(t *testing.T, inventory string, unlisted bool) (*Roster, error) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "nodes.yaml")
	if err := os.WriteFile(file, []byte(inventory), 0o600); err != nil {
		t.Fatal(err)
	}
	doc, err := provision.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	r := &Roster{Doc: doc, Keys: &provision.Keys{}, Default: "served", Images: &bootserver.Images{}, Unlisted: unlisted,
		Adopted: &bootserver.Records[bootserver.Adoption]{Dir: filepath.Join(dir, "adopted")}}
	return r, r.Read(netip.MustParsePrefix("10.0.0.1/24"))
}

const adoptedMAC = "d8:3a:dd:00:00:04"

// rosterInventory lists machines in each way that there is.
const rosterInventory = `
defaults: {time: {zone: UTC}, upgrades: {channel: a.test/all}}
nodes:
- {serial: '00000001', hostname: one, upgrades: {channel: a.test/beta}, network: {interfaces: [{name: eth0, addresses: [10.0.0.20/24]}]}}
- {mac: 'd8:3a:dd:00:00:02', hostname: two, network: {interfaces: [{name: eth0, addresses: [192.168.1.9/24]}]}}
- {board: rpi5, sysctls: {kernel.panic: '9'}}
- {hostname: four, upgrades: {channel: a.test/beta}}
`

// TestRoster: which image, which address and which config each machine has: by
// serial, by hardware address, by board, as what it was adopted, and where
// nothing fits it.
func TestRoster(t *testing.T) {
	type want struct {
		known   bool
		image   string
		address string
		config  string // "" for none
	}
	for name, c := range map[string]struct {
		m        bootserver.Machine
		listed   want
		unlisted want
	}{
		"by serial": {bootserver.Machine{Serial: "00000001"},
			want{true, "a.test/beta", "10.0.0.20", "hostname: one"},
			want{true, "a.test/beta", "10.0.0.20", "hostname: one"}},
		"by address": {bootserver.Machine{MAC: "d8:3a:dd:00:00:02"},
			want{true, "a.test/all", "", "hostname: two"},
			want{true, "a.test/all", "", "hostname: two"}},
		"by board": {bootserver.Machine{Serial: "00000003", Model: "RPi5"},
			want{true, "a.test/all", "", "kernel.panic"},
			want{true, "a.test/all", "", "kernel.panic"}},
		"adopted": {bootserver.Machine{Serial: "00000004", MAC: adoptedMAC},
			want{true, "a.test/beta", "", "hostname: four"},
			want{true, "a.test/beta", "", "hostname: four"}},
		"as no node": {bootserver.Machine{Serial: "00000005", MAC: adoptedMAC},
			want{true, "a.test/all", "", ""},
			want{true, "a.test/all", "", "zone: UTC"}},
		"a stranger": {bootserver.Machine{Serial: "00000006", Model: "RPi4"},
			want{false, "a.test/all", "", ""},
			want{true, "a.test/all", "", "zone: UTC"}},
		"no serial": {bootserver.Machine{MAC: "d8:3a:dd:00:00:07"},
			want{false, "a.test/all", "", ""},
			want{false, "a.test/all", "", "zone: UTC"}},
	} {
		for _, unlisted := range []bool{false, true} {
			r, err := newRoster(t, rosterInventory, unlisted)
			if err != nil {
				t.Fatal(err)
			}
			for serial, as := range map[string]string{"00000004": "four", "00000005": ""} {
				if err := r.Adopt(bootserver.Machine{Serial: serial, MAC: adoptedMAC}, as); err != nil {
					t.Fatal(err)
				}
			}
			if got := r.References(); !slices.Equal(got, []string{"served", "a.test/beta", "a.test/all"}) {
				t.Fatalf("%q is served", got)
			}
			want := c.listed
			if unlisted {
				want = c.unlisted
			}
			_, known := r.Known(c.m)
			address, fixed := r.Fixed(c.m)
			config, err := r.Config(c.m)
			if known != want.known || r.Reference(c.m) != want.image || fixed != (want.address != "") || fixed && address.String() != want.address ||
				(want.config == "") != (config == nil) || !strings.Contains(string(config), want.config) || err != nil {
				t.Errorf("%s, unlisted %v: known %v, image %q, address %v %v, config %q %v, want %+v", name, unlisted, known, r.Reference(c.m), address,
					fixed, config, err, want)
			}
		}
	}
}

// TestFixedAddresses: addresses of the inventory are taken, but for the one of the
// boot server itself, which may be a node.
func TestFixedAddresses(t *testing.T) {
	r, err := newRoster(t, rosterInventory, false)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Taken(netip.MustParseAddr("10.0.0.20")) || r.Taken(netip.MustParseAddr("10.0.0.21")) {
		t.Error("a fixed address is given to others, or another is not")
	}
	r, err = newRoster(t, "nodes: [{serial: '00000001', network: {interfaces: [{name: eth0, addresses: [10.0.0.1/24]}]}}]\n", false)
	if err != nil {
		t.Fatal(err)
	}
	if a, fixed := r.Fixed(bootserver.Machine{Serial: "00000001"}); fixed {
		t.Errorf("the server's own address %v is given away", a)
	}
}

// TestRosterRequiresNamedAddress: where the inventory or an adoption names a serial
// and a hardware address, a machine that has one of the two is not the one that
// is meant: it is not known, and has neither image, address nor config of it,
// not even where the machines that are not listed boot.
func TestRosterRequiresNamedAddress(t *testing.T) {
	const inventory = `
defaults: {upgrades: {channel: a.test/all}}
nodes:
- serial: '1000000000000001'
  mac: 'd8:3a:dd:00:00:01'
  hostname: one
  upgrades: {channel: a.test/beta}
  network: {interfaces: [{name: eth0, addresses: [10.0.0.20/24]}]}
- {hostname: four, upgrades: {channel: a.test/beta}, network: {interfaces: [{name: eth0, addresses: [10.0.0.21/24]}]}}
- {serial: '1000000000000005', hostname: five}
- {board: rpi5, sysctls: {kernel.panic: '9'}}
`
	const right, wrong = "d8:3a:dd:00:00:01", "d8:3a:dd:00:00:99"
	for name, c := range map[string]struct {
		m      bootserver.Machine
		is     bool
		config string
		image  string
	}{
		"both":                      {bootserver.Machine{Serial: "00000001", MAC: right}, true, "hostname: one", "a.test/beta"},
		"the address, serial later": {bootserver.Machine{MAC: right}, true, "hostname: one", "a.test/beta"},
		"the serial alone":          {bootserver.Machine{Serial: "00000001"}, false, "", "a.test/all"},
		"the serial":                {bootserver.Machine{Serial: "00000001", MAC: wrong}, false, "", "a.test/all"},
		"the address":               {bootserver.Machine{Serial: "00000009", MAC: right}, false, "", "a.test/all"},
		"the address, and a board":  {bootserver.Machine{Serial: "00000009", MAC: right, Model: "RPi5"}, true, "kernel.panic", "a.test/all"},
		"adopted":                   {bootserver.Machine{Serial: "00000004", MAC: adoptedMAC}, true, "hostname: four", "a.test/beta"},
		"the serial of an adopted":  {bootserver.Machine{Serial: "00000004", MAC: wrong}, false, "", "a.test/all"},
		"a serial without address":  {bootserver.Machine{Serial: "00000005", MAC: wrong}, true, "hostname: five", "a.test/all"},
	} {
		for _, unlisted := range []bool{false, true} {
			r, err := newRoster(t, inventory, unlisted)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Adopt(bootserver.Machine{Serial: "00000004", MAC: adoptedMAC}, "four"); err != nil {
				t.Fatal(err)
			}
			mac, ok := r.Known(c.m)
			is := ok && (mac == "" || mac == c.m.MAC)
			_, fixed := r.Fixed(c.m)
			config, err := r.Config(c.m)
			if unlisted && c.m.Serial == "00000009" {
				continue // it is whoever was plugged in
			}
			if is != c.is || fixed && !c.is || r.Reference(c.m) != c.image ||
				err != nil || (c.config == "") != (config == nil) || !strings.Contains(string(config), c.config) {
				t.Errorf("%s, unlisted %v: known %v (%q), a fixed address %v, image %q, config %q %v",
					name, unlisted, is, mac, fixed, r.Reference(c.m), config, err)
			}
		}
	}
}

// TestAdoptedAtOnce: while one adoption is under way another waits for it, so
// that of two machines that are adopted as one entry one becomes it.
func TestAdoptedAtOnce(t *testing.T) {
	r, err := newRoster(t, "nodes: [{hostname: four}]\n", false)
	if err != nil {
		t.Fatal(err)
	}
	r.adopting.Lock() // as the first one does
	second := make(chan error, 1)
	go func() { second <- r.Adopt(bootserver.Machine{Serial: "00000002", MAC: adoptedMAC}, "four") }()
	for waits := false; !waits; time.Sleep(time.Millisecond) {
		select {
		case err := <-second:
			t.Fatalf("the second adoption ended in the middle of the first: %v", err)
		default:
		}
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		waits = slices.ContainsFunc(strings.Split(string(stacks), "\n\n"), func(s string) bool {
			return strings.Contains(s, "[sync.Mutex.Lock") && strings.Contains(s, "(*Roster).Adopt(")
		})
	}
	if err := r.Adopted.Put("00000001", bootserver.Adoption{As: "four", MAC: adoptedMAC}); err != nil {
		t.Fatal(err)
	}
	r.adopting.Unlock()
	if err := <-second; err == nil || !strings.Contains(err.Error(), `node "four" is already serial 00000001`) {
		t.Errorf("the second adoption: %v", err)
	}
}

// TestAdoptionRefused: an adoption takes neither an entry nor a serial from a
// machine that is already known.
func TestAdoptionRefused(t *testing.T) {
	const inventory = `
nodes:
- {hostname: four}
- {hostname: five}
- {serial: '00000001', mac: 'd8:3a:dd:00:00:01', hostname: one}
- {serial: '00000002', hostname: two}
`
	r, err := newRoster(t, inventory, false)
	if err != nil {
		t.Fatal(err)
	}
	const other = "d8:3a:dd:00:00:99"
	for _, c := range []struct{ serial, mac, as, why string }{
		{"00000004", adoptedMAC, "four", ""},
		{"00000004", adoptedMAC, "four", ""},
		{"00000004", other, "four", "already adopted, with hardware address " + adoptedMAC},
		{"00000004", other, "", "already adopted"},
		{"00000005", other, "four", `node "four" is already serial 00000004`},
		{"00000005", "", "five", "missing hardware address"},
		{"00000005", other, "nine", `node "nine" not found`},
		{"00000005", other, "one", `the inventory names the machine of node "one"`},
		{"00000001", other, "", "another hardware address in the inventory: got " + other + ", want d8:3a:dd:00:00:01"},
		{"00000001", "d8:3a:dd:00:00:01", "", ""},
		{"00000002", other, "", ""},
	} {
		err := r.Adopt(bootserver.Machine{Serial: c.serial, MAC: c.mac}, c.as)
		if (err == nil) != (c.why == "") || err != nil && !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s at %s as %q: %v, want %q", c.serial, c.mac, c.as, err, c.why)
		}
	}
	if a, _ := r.Adopted.Find("00000004"); a != (bootserver.Adoption{As: "four", MAC: adoptedMAC}) {
		t.Errorf("the first is %+v now", a)
	}
}

// TestTwoMachinesOneEntryAreRefused: files of adoptions that make two machines one node
// are an error when the server starts.
func TestTwoMachinesOneEntryAreRefused(t *testing.T) {
	const inventory = "nodes: [{hostname: four}, {serial: '1000000000000001', hostname: one}, {mac: 'd8:3a:dd:00:00:02', hostname: two}]\n"
	for _, c := range []struct {
		adopted map[string]bootserver.Adoption
		why     string
	}{
		{map[string]bootserver.Adoption{"00000004": {As: "four", MAC: adoptedMAC}, "00000005": {MAC: adoptedMAC}, "00000006": {MAC: adoptedMAC}},
			""},
		{map[string]bootserver.Adoption{"00000004": {As: "four", MAC: adoptedMAC}, "00000005": {As: "four", MAC: adoptedMAC}},
			"serials 00000004 and 00000005 are both adopted as four"},
		{map[string]bootserver.Adoption{"00000001": {As: "one", MAC: adoptedMAC}, "00000002": {As: "two", MAC: "d8:3a:dd:00:00:02"}}, ""},
		{map[string]bootserver.Adoption{"00000004": {As: "one", MAC: adoptedMAC}}, "adopted as one, which is another machine in the inventory"},
		{map[string]bootserver.Adoption{"00000004": {As: "two", MAC: adoptedMAC}}, "adopted as two, which is another machine in the inventory"},
	} {
		r, err := newRoster(t, inventory, false)
		if err != nil {
			t.Fatal(err)
		}
		for serial, a := range c.adopted {
			if err := r.Adopted.Put(serial, a); err != nil {
				t.Fatal(err)
			}
		}
		err = r.Read(netip.MustParsePrefix("10.0.0.1/24"))
		if (err == nil) != (c.why == "") || err != nil && !strings.Contains(err.Error(), c.why) {
			t.Errorf("%v: %v, want %q", c.adopted, err, c.why)
		}
	}
}
