package main

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/artifact/registry"
	"github.com/pikelet-os/pikelet/internal/desk"
	"github.com/pikelet-os/pikelet/internal/netboot"
)

func newRoster(t *testing.T, inventory string, unlisted bool) (*roster, error) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "nodes.yaml")
	if err := os.WriteFile(file, []byte(inventory), 0o600); err != nil {
		t.Fatal(err)
	}
	doc, err := desk.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	r := &roster{doc: doc, keys: &desk.Keys{}, reference: "served", images: &netboot.Images{}, unlisted: unlisted,
		adopted: &netboot.Records[netboot.Adoption]{Dir: filepath.Join(dir, "adopted")}}
	return r, r.read(netip.MustParsePrefix("10.0.0.1/24"))
}

// TestRoster: which image, which address and which config each machine has: by
// serial, by hardware address, by board, as what it was adopted, and where
// nothing fits it.
func TestRoster(t *testing.T) {
	const inventory = `
defaults: {time: {zone: UTC}, upgrades: {channel: all}}
nodes:
- {serial: '00000001', hostname: one, upgrades: {channel: beta}, network: {interfaces: [{name: eth0, addresses: [10.0.0.20/24]}]}}
- {mac: 'd8:3a:dd:00:00:02', hostname: two, network: {interfaces: [{name: eth0, addresses: [192.168.1.9/24]}]}}
- {board: rpi5, sysctls: {kernel.panic: '9'}}
- {hostname: four, upgrades: {channel: beta}}
`
	type want struct {
		known   bool
		image   string
		address string
		config  string // "" for none
	}
	for name, c := range map[string]struct {
		m        netboot.Machine
		listed   want
		unlisted want
	}{
		"by serial":  {netboot.Machine{Serial: "00000001"}, want{true, "beta", "10.0.0.20", "hostname: one"}, want{true, "beta", "10.0.0.20", "hostname: one"}},
		"by address": {netboot.Machine{MAC: "d8:3a:dd:00:00:02"}, want{true, "all", "", "hostname: two"}, want{true, "all", "", "hostname: two"}},
		"by board":   {netboot.Machine{Serial: "00000003", Model: "RPi5"}, want{true, "all", "", "kernel.panic"}, want{true, "all", "", "kernel.panic"}},
		"adopted":    {netboot.Machine{Serial: "00000004"}, want{true, "beta", "", "hostname: four"}, want{true, "beta", "", "hostname: four"}},
		"as nobody":  {netboot.Machine{Serial: "00000005"}, want{true, "all", "", ""}, want{true, "all", "", "zone: UTC"}},
		"a stranger": {netboot.Machine{Serial: "00000006", Model: "RPi4"}, want{false, "all", "", ""}, want{true, "all", "", "zone: UTC"}},
		"no serial":  {netboot.Machine{MAC: "d8:3a:dd:00:00:07"}, want{false, "all", "", ""}, want{false, "all", "", "zone: UTC"}},
	} {
		for _, unlisted := range []bool{false, true} {
			r, err := newRoster(t, inventory, unlisted)
			if err != nil {
				t.Fatal(err)
			}
			for serial, as := range map[string]string{"00000004": "four", "00000005": ""} {
				if err := r.adopt(netboot.Machine{Serial: serial}, as); err != nil {
					t.Fatal(err)
				}
			}
			if got := r.references(); !slices.Equal(got, []string{"served", "beta", "all"}) {
				t.Fatalf("%q is served", got)
			}
			want := c.listed
			if unlisted {
				want = c.unlisted
			}
			_, known := r.Known(c.m)
			address, fixed := r.fixed(c.m)
			config, err := r.Config(c.m)
			if known != want.known || r.Reference(c.m) != want.image || fixed != (want.address != "") || fixed && address.String() != want.address ||
				(want.config == "") != (config == nil) || !strings.Contains(string(config), want.config) || err != nil {
				t.Errorf("%s, unlisted %v: known %v, image %q, address %v %v, config %q %v, want %+v", name, unlisted, known, r.Reference(c.m), address, fixed, config, err, want)
			}
		}
	}
	r, err := newRoster(t, inventory, false)
	if err != nil {
		t.Fatal(err)
	}
	if !r.taken(netip.MustParseAddr("10.0.0.20")) || r.taken(netip.MustParseAddr("10.0.0.21")) {
		t.Error("a fixed address is given to others, or another is not")
	}
	// The inventory lists the boot server too, where that is a node.
	r, err = newRoster(t, "nodes: [{serial: '00000001', network: {interfaces: [{name: eth0, addresses: [10.0.0.1/24]}]}}]\n", false)
	if err != nil {
		t.Fatal(err)
	}
	if a, fixed := r.fixed(netboot.Machine{Serial: "00000001"}); fixed {
		t.Errorf("the server's own address %v is given away", a)
	}
}

// TestRegistryAway: a boot server that starts while the registry is away serves
// what it served last; one that never served it says so.
func TestRegistryAway(t *testing.T) {
	dir := shippedIn(t)
	say := &teller{out: &strings.Builder{}}
	o := &imageOptions{Keys: []string{dir + "/ci.pub"}}
	away := false
	start := func(state string) (*library, error) {
		l := &library{cache: dir + "/cache", say: say, images: &netboot.Images{}, memory: state + "/served.yaml"}
		l.open = func(ctx context.Context, ref string) (*registry.Image, error) {
			if away && strings.HasPrefix(ref, dir+"/one") {
				return nil, os.ErrDeadlineExceeded
			}
			return o.open(ctx, ref)
		}
		return l, l.start(context.Background(), dir+"/one", []string{dir + "/one", dir + "/nowhere"})
	}
	l, err := start(dir + "/state")
	if err != nil {
		t.Fatal(err)
	}
	was := l.images.Current(dir + "/one").Digest
	l.close()
	if !strings.Contains(say.out.(*strings.Builder).String(), "its nodes can't start until it is there") {
		t.Errorf("said %q", say.out)
	}
	// What another reference was last is not forgotten by that.
	if err := os.WriteFile(dir+"/state/served.yaml", []byte(dir+"/one: "+was+"\n"+dir+"/nowhere: sha256:gone\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	away = true
	if l, err = start(dir + "/state"); err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if got := l.images.Current(dir + "/one"); got == nil || got.Digest != was {
		t.Errorf("%v is served, not %s", got, was)
	}
	if b, err := os.ReadFile(dir + "/state/served.yaml"); err != nil || !strings.Contains(string(b), "sha256:gone") {
		t.Errorf("it remembers\n%s%v", b, err)
	}
	if !strings.Contains(say.out.(*strings.Builder).String(), "serving what") {
		t.Errorf("said %q", say.out)
	}
	if _, err := start(dir + "/other"); err == nil {
		t.Error("it serves what it never had")
	}
}
