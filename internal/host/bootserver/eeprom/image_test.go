package eeprom

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// part is a section of a synthetic image, which begins at at, or behind the one
// before where at is zero. Padding fills the space up to the next part.
type part struct {
	magic uint32
	name  string // of a file
	at    int
	body  string
}

// build lays out an image of parts.
func build(size int, parts ...part) []byte {
	out := bytes.Repeat([]byte{0xff}, size)
	end := 0
	for _, p := range parts {
		at := end
		if p.at > end {
			at = p.at
			head(out[end:], magicPad, at-end-headSize)
		}
		body := p.body
		if p.magic == magicFile {
			body = p.name + strings.Repeat("\x00", nameSize+4-len(p.name)) + p.body
		}
		head(out[at:], p.magic, len(body))
		copy(out[at+headSize:], body)
		end = (at + headSize + len(body) + 7) &^ 7
	}
	return out
}

func head(b []byte, magic uint32, length int) {
	binary.BigEndian.PutUint32(b, magic)
	binary.BigEndian.PutUint32(b[4:], uint32(length))
}

// plain is an image of a Pi 4 whose configuration is its last section.
func plain(conf string) []byte {
	return build(size2711, part{magic: magicCode, body: "code"}, part{magic: 0x55aaf33f, body: "more"},
		part{magic: magicFile, name: "pubkey.bin", at: 320 << 10, body: "key"}, part{magic: magicFile, name: confName, at: 340 << 10, body: conf})
}

// TestReplaceLayouts holds to the layouts of the images in
// raspberrypi/rpi-eeprom: how the sections are marked, where the configuration
// begins, and what has to follow it.
func TestReplaceLayouts(t *testing.T) {
	conf := func(at int) part {
		return part{magic: magicFile, name: confName, at: at, body: "[all]\nBOOT_UART=1\nWAKE_ON_GPIO=1\n"}
	}
	for name, c := range map[string]struct {
		size  int
		parts []part
		pad   int // offset of the end of the padding behind the configuration; 0 where there is none
	}{
		"2711 of 2019":    {size2711, []part{{magic: magicCode, body: "c"}, {magic: 0x55aaf22f, body: "d"}, conf(212992)}, 0},
		"2711 of 2021":    {size2711, []part{{magic: magicCode, body: "c"}, {magic: 0x55aaf33f, body: "d"}, conf(348160)}, 0},
		"2711, unaligned": {size2711, []part{{magic: magicCode, body: "c"}, {magic: 0x55aaf44f, body: "d"}, conf(465408)}, 0},
		"2711, file behind it": {size2711, []part{{magic: 0x55aaf33f, body: "c"}, conf(465408), {magic: magicFile, name: "cacert.der",
			at: 470016, body: "x"}}, 470016},
		"2711, near the end": {size2711, []part{{magic: 0x55aaf33f, body: "c"}, conf(516096)}, 0},
		"2712":               {size2712, []part{{magic: 0x55aaf33f, body: "c"}, conf(700416)}, 0},
		"2712 of two partitions": {size2712, []part{{magic: 0x55aaf44f, body: "c"}, conf(667648), {magic: magicPad, at: 1077248,
			body: "x"}, {magic: magicPad, at: 2089000, body: "x"}}, 1077248},
	} {
		for _, text := range []string{"[all]\nA=1\n", strings.Repeat("#", 4000)} {
			t.Run(fmt.Sprintf("%s, %d bytes", name, len(text)), func(t *testing.T) { checkReplace(t, build(c.size, c.parts...), text, c.pad) })
		}
	}
}

// checkReplace replaces the configuration of in and looks at each byte.
func checkReplace(t *testing.T, in []byte, text string, pad int) {
	out, err := replace(in, text)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Config(out); err != nil || got != text {
		t.Errorf("Config: got %q, %v, want %q", got, err, text)
	}
	p, err := find(in)
	if err != nil {
		t.Fatal(err)
	}
	end := pad
	if pad == 0 {
		end = min(len(in)-eraseSize, readOnlySize+partitionSize)
	}
	want := slices.Clone(in)
	head(want[p.at:], magicFile, nameSize+4+len(text))
	rest := want[p.at+textAt+copy(want[p.at+textAt:], text) : end]
	copy(rest, bytes.Repeat([]byte{0xff}, len(rest)))
	if at := (p.at + textAt + len(text) + 7) &^ 7; pad > 0 {
		head(want[at:], magicPad, pad-at-headSize)
	}
	for i := range want {
		if out[i] != want[i] {
			t.Fatalf("byte %d: got %#x, want %#x", i, out[i], want[i])
		}
	}
}

func TestDamagedImages(t *testing.T) {
	other := plain(conf)
	head(other[16:], 0x12345678, 4)
	long := plain(conf)
	head(long[16:], 0x55aaf33f, size2711)
	short := plain(conf)
	head(short[340<<10:], magicFile, nameSize)
	copy(short[340<<10+textAt:], bytes.Repeat([]byte{0xff}, headSize))
	full := build(size2711, part{magic: magicFile, name: confName, at: 65536, body: "a"}, part{magic: magicFile, name: "next",
		at: 65536 + 2048, body: "b"})
	for name, c := range map[string]struct {
		image []byte
		want  string
	}{
		"unknown magic number": {other, "magic number 0x12345678 at byte 16"},
		"too long a section":   {long, "the section at byte 16 has 524288 bytes"},
		"too short a file":     {short, "want at least 16"},
		"no room":              {full, "want at most 2024"},
	} {
		if _, err := replace(c.image, strings.Repeat("#", 2025)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
}

func TestMissingSettings(t *testing.T) {
	image := func(size int, built string) []byte {
		return build(size, part{magic: magicCode, body: "VERSION:x\x00BUILD_TIMESTAMP=" + built + "\x00DATE: x"})
	}
	for name, c := range map[string]struct {
		image []byte
		want  int    // texts
		first string // one of them
		err   string
	}{
		"2711 2019-09-10":     {image(size2711, "1568112000"), 0, "", "from 2019-09-23 on"},
		"2711 2019-09-23":     {image(size2711, "1569196800"), 3, "siaddr", ""},
		"2711 2026-08-04":     {image(size2711, "1785801600"), 0, "", ""},
		"2712 2023-09-28":     {image(size2712, "1695859200"), 2, "first attempt", ""},
		"2712 2024-01-05":     {image(size2712, "1704412800"), 1, "65535", ""},
		"2711 without a date": {build(size2711, part{magic: magicCode, body: "c"}), 0, "", ""},
	} {
		got, err := Lacks(c.image)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: got error %v, want %q", name, err, c.err)
		}
		if len(got) != c.want || c.want > 0 && !strings.Contains(got[0], c.first) {
			t.Errorf("%s: got %q, want %d texts, the first with %q", name, got, c.want, c.first)
		}
	}
}

func TestDigest(t *testing.T) {
	for size, want := range map[int]string{
		// sha256sum of as many zeros
		size2711: "07854d2fef297a06ba81685e660c332de36d5d18d546927d30daad6d7fda1541\nts: 1700000000\ntarget-soc: 2711\n",
		size2712: "5647f05ec18958947d32874eeb788fa396a05d0bab7c1b71f112ceb7e9b31eee\nts: 1700000000\ntarget-soc: 2712\n",
	} {
		if got, err := Digest(make([]byte, size), 1700000000); err != nil || string(got) != want {
			t.Errorf("Digest of %d zeros: got %q, %v, want %q", size, got, err, want)
		}
	}
	if _, err := Digest([]byte("abc"), 0); err == nil {
		t.Error("Digest of 3 bytes: got no error")
	}
}
