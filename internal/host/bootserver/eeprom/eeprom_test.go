package eeprom

import (
	"net/netip"
	"strings"
	"testing"
)

const conf = "[all]\nBOOT_UART=1\nBOOT_ORDER=0xf41\n\n[pi5]\nBOOT_ORDER=0x6\n[config.txt]\ndtparam=audio=on\n"

func TestUpdateMergesSettings(t *testing.T) {
	o := Options{Order: DefaultOrder, Server: netip.MustParseAddr("10.0.0.1")}
	in := plain(conf)
	if got, err := Config(in); err != nil || got != conf {
		t.Fatalf("Config: got %q, %v, want %q", got, err, conf)
	}
	out, err := Update(in, o)
	if err != nil {
		t.Fatal(err)
	}
	const want = "[all]\nBOOT_UART=1\n\n[pi5]\nBOOT_ORDER=0x6\n[all]\nBOOT_ORDER=0xf21\nDHCP_TIMEOUT=45000\nDHCP_REQ_TIMEOUT=4000\n" +
		"TFTP_FILE_TIMEOUT=30000\nTFTP_PREFIX=0\nNET_BOOT_MAX_RETRIES=-1\nTFTP_IP=10.0.0.1\n[config.txt]\ndtparam=audio=on\n"
	if got, err := Config(out); err != nil || got != want {
		t.Errorf("Config of the update: got %q, %v, want %q", got, err, want)
	}
	// What was put in is replaced when it is put in again.
	again, err := Update(out, o)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := Config(again); strings.Count(got, "TFTP_IP") != 1 || strings.Count(got, "BOOT_ORDER=0xf21") != 1 {
		t.Errorf("Config of a second update: got %q, want each setting once", got)
	}
}

func TestUpdateRefusesBadInput(t *testing.T) {
	good := Options{Order: DefaultOrder}
	for name, c := range map[string]struct {
		image []byte
		o     Options
		want  string
	}{
		"another size": {make([]byte, 1000), good, "1000 bytes"},
		"no config":    {make([]byte, size2711), good, "bootconf.txt not found"},
		"too long":     {plain(strings.Repeat("#", 4000)), good, "want at most"},
		"no network":   {plain(conf), Options{Order: "0xf41"}, "missing digit 2"},
		"no order":     {plain(conf), Options{Order: "net"}, "want a number"},
		"IPv6":         {plain(conf), Options{Order: DefaultOrder, Server: netip.MustParseAddr("fe80::1")}, "IPv4"},
	} {
		if _, err := Update(c.image, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestText(t *testing.T) {
	text, err := Text(Options{Order: "0xf2"})
	if err != nil || !strings.Contains(text, "\nBOOT_ORDER=0xf2\n") || strings.Contains(text, "TFTP_IP") || !strings.Contains(text,
		"2019-09-23") || !strings.Contains(text, "2023-10-18") {
		t.Errorf("%s %v", text, err)
	}
}

func FuzzUpdate(f *testing.F) {
	f.Add(plain(conf)[:80<<10], "0xf21")
	f.Fuzz(func(t *testing.T, b []byte, order string) {
		in := append(b, make([]byte, max(0, size2711-len(b)))...)[:size2711]
		out, err := Update(in, Options{Order: order})
		if err != nil {
			return
		}
		if got, err := Config(out); err != nil || !strings.Contains(got, "BOOT_ORDER="+order+"\n") || len(out) != len(in) {
			t.Errorf("%q %v", got, err)
		}
	})
}
