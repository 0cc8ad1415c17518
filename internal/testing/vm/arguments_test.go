package vm

import (
	"context"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestGuestsHaveOwnHardwareAddresses: guests in one network have hardware addresses of
// their own, whether they have a card or not.
func TestGuestsHaveOwnHardwareAddresses(t *testing.T) {
	rom := &NetROM{MAC: net.HardwareAddr{0xd8, 0x3a, 0xdd, 1, 2, 3}}
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"alone":                          {Options{Serial: "1000000052617370"}, ""},
		"with a card":                    {Options{Serial: "1000000052617370", Tap: "tap1"}, ",mac=52:54:00:61:73:70"},
		"with a card and another serial": {Options{Serial: "1000000052617371", Tap: "tap1"}, ",mac=52:54:00:61:73:71"},
		"without a card":                 {Options{Serial: "1000000052617370", Tap: "tap1", Net: rom}, ",mac=d8:3a:dd:01:02:03"},
	} {
		if _, mac, err := c.o.network(); err != nil || mac != c.want {
			t.Errorf("%s: %q (%v), want %q", name, mac, err, c.want)
		}
	}
	for _, serial := range []string{"attic", "", "12345"} {
		if _, _, err := (Options{Serial: serial, Tap: "tap1"}).network(); err == nil ||
			!strings.Contains(err.Error(), "want at least six hexadecimal digits") {
			t.Errorf("serial %q: %v", serial, err)
		}
	}
}

// TestGuestHasRequestedCores: a guest has as many processors as are asked for, and its device tree
// says so; a raspi3b has the four that it always has.
func TestGuestHasRequestedCores(t *testing.T) {
	if _, err := exec.LookPath(qemu); err != nil {
		t.Fatalf("%v; apt-get install qemu-system-arm", err)
	}
	for cores, want := range map[int]string{0: "1", 3: "3"} {
		m := &Machine{o: Options{Serial: defaultSerial, Cores: cores}, dir: t.TempDir()}
		args, err := m.arguments(context.Background(), virt, &Handover{})
		if err != nil {
			t.Fatal(err)
		}
		if i := slices.Index(args, "-smp"); i < 0 || args[i+1] != want {
			t.Errorf("cores %d: QEMU is given %q", cores, args)
		}
		b, err := os.ReadFile(m.dir + "/dtb")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(string(b), "cpu@"); string(rune('0'+got)) != want {
			t.Errorf("cores %d: its device tree has %d", cores, got)
		}
	}
	if raspi3b.cores != 0 {
		t.Errorf("raspi3b has %d cores", raspi3b.cores)
	}
}
