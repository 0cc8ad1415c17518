package eeprom

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
)

// section is one of an image, padded to the next multiple of eight.
func section(magic uint32, b []byte) []byte {
	out := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, magic), uint32(len(b)))
	out = append(out, b...)
	for len(out)%8 != 0 {
		out = append(out, 0xff)
	}
	return out
}

// image is one as FACTS 3.8 describes it: code, the configuration at the start
// of an erase sector, another file in the next one.
func image(conf string, word bool) []byte {
	b := section(magicCode, bytes.Repeat([]byte("code"), 100))
	b = append(b, section(magicPad, bytes.Repeat([]byte{0xff}, 4096-len(b)-8))...)
	name := append([]byte(confName), make([]byte, nameSize-len(confName))...)
	if word {
		name = append(name, 0, 0, 0, 0)
	}
	b = append(b, section(magicFile, append(name, conf...))...)
	b = append(b, section(magicPad, bytes.Repeat([]byte{0xff}, 8192-len(b)-8))...)
	b = append(b, section(magicFile, append([]byte("cacert.der\x00\x00\x00\x00\x00\x00"), "a certificate"...))...)
	return append(b, bytes.Repeat([]byte{0xff}, sizes[0]-len(b))...)
}

const conf = "[all]\nBOOT_UART=1\nBOOT_ORDER=0xf41\n\n[pi5]\nBOOT_ORDER=0x6\n[config.txt]\ndtparam=audio=on\n"

func TestUpdate(t *testing.T) {
	o := Options{Order: DefaultOrder, Server: netip.MustParseAddr("10.0.0.1")}
	for _, word := range []bool{false, true} {
		in := image(conf, word)
		if got, err := Config(in); err != nil || got != conf {
			t.Fatalf("%q, %v", got, err)
		}
		out, err := Update(in, o)
		if err != nil {
			t.Fatal(err)
		}
		const want = "[all]\nBOOT_UART=1\n\n[pi5]\nBOOT_ORDER=0x6\n[all]\nBOOT_ORDER=0xf21\nDHCP_TIMEOUT=45000\nDHCP_REQ_TIMEOUT=4000\nTFTP_FILE_TIMEOUT=30000\nTFTP_PREFIX=0\nNET_BOOT_MAX_RETRIES=-1\nTFTP_IP=10.0.0.1\n[config.txt]\ndtparam=audio=on\n"
		if got, err := Config(out); err != nil || got != want {
			t.Errorf("%q, %v", got, err)
		}
		// Nothing else is touched, and the file behind it is found as before.
		if !bytes.Equal(in[:4096], out[:4096]) || !bytes.Equal(in[8192:], out[8192:]) || len(in) != len(out) {
			t.Error("other sectors changed")
		}
		for at, seen := 0, 0; ; seen++ {
			if magic := binary.BigEndian.Uint32(out[at:]); magic == magicFile && string(out[at+8:at+18]) == "cacert.der" {
				break
			} else if magic != magicCode && magic != magicFile && magic != magicPad || seen > 10 {
				t.Fatalf("the file behind it is lost at byte %d", at)
			}
			at = (at + 8 + int(binary.BigEndian.Uint32(out[at+4:])) + 7) &^ 7
		}
		// What was put in is replaced when it is put in again.
		again, err := Update(out, o)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := Config(again); strings.Count(got, "TFTP_IP") != 1 || strings.Count(got, "BOOT_ORDER=0xf21") != 1 {
			t.Errorf("%q", got)
		}
	}
}

func TestRefuses(t *testing.T) {
	good := Options{Order: DefaultOrder}
	for name, c := range map[string]struct {
		image []byte
		o     Options
		want  string
	}{
		"another size": {make([]byte, 1000), good, "1000 bytes"},
		"no config":    {make([]byte, sizes[0]), good, "no bootconf.txt"},
		"too long":     {image(strings.Repeat("#", 4000), true), good, "room for"},
		"no network":   {image(conf, true), Options{Order: "0xf41"}, "no 2"},
		"no order":     {image(conf, true), Options{Order: "net"}, "want a number"},
		"IPv6":         {image(conf, true), Options{Order: DefaultOrder, Server: netip.MustParseAddr("fe80::1")}, "IPv4"},
	} {
		if _, err := Update(c.image, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestText(t *testing.T) {
	text, err := Text(Options{Order: "0xf2"})
	if err != nil || !strings.Contains(text, "\nBOOT_ORDER=0xf2\n") || strings.Contains(text, "TFTP_IP") || !strings.Contains(text, "2025-09-23") {
		t.Errorf("%s %v", text, err)
	}
}

func TestDigest(t *testing.T) {
	const want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\nts: 1700000000\n" // sha256sum of "abc"
	if got := string(Digest([]byte("abc"), 1700000000)); got != want {
		t.Errorf("%q", got)
	}
}

func FuzzUpdate(f *testing.F) {
	f.Add(image(conf, true)[:9000], "0xf21")
	f.Fuzz(func(t *testing.T, b []byte, order string) {
		in := append(b, make([]byte, max(0, sizes[0]-len(b)))...)[:sizes[0]]
		out, err := Update(in, Options{Order: order})
		if err != nil {
			return
		}
		if got, err := Config(out); err != nil || !strings.Contains(got, "BOOT_ORDER="+order+"\n") || len(out) != len(in) {
			t.Errorf("%q %v", got, err)
		}
	})
}
