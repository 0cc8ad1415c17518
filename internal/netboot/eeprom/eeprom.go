// Package eeprom makes the configuration with which the bootloader of a Pi 4 or
// 5 starts from the network, as text, and as the update file that the
// bootloader takes from a card.
package eeprom

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Options say what a bootloader does.
type Options struct {
	// Order is BOOT_ORDER, read from its last digit: 1 card, 2 network, 4 USB,
	// 6 NVMe, f begin again (FACTS 3.4).
	Order string
	// Server is TFTP_IP; zero where DHCP says it.
	Server netip.Addr
}

// DefaultOrder tries a card, then the network, and begins again: a Pi without a
// card starts from the network, and one can still be mended by a card.
const DefaultOrder = "0xf21"

var orderForm = regexp.MustCompile(`^0x[0-7ef]{1,8}$`)

// setting is one line of the configuration, and why.
type setting struct{ key, value, why string }

// settings returns what Options come to (FACTS 3.4, 3.5).
func (o Options) settings() ([]setting, error) {
	switch {
	case !orderForm.MatchString(o.Order):
		return nil, fmt.Errorf("boot order %q: want a number such as %s, read from its last digit: 1 card, 2 network, 4 USB, 6 NVMe, f begin again", o.Order, DefaultOrder)
	case !strings.Contains(o.Order[2:], "2"):
		return nil, fmt.Errorf("boot order %s: it has no 2, which is the network", o.Order)
	case o.Server.IsValid() && !o.Server.Is4():
		return nil, fmt.Errorf("server %s: firmware wants an IPv4 address", o.Server)
	}
	list := []setting{
		{"BOOT_ORDER", o.Order, "read from the last digit: 1 card, 2 network, 4 USB, 6 NVMe, f begin again"},
		{"DHCP_TIMEOUT", "45000", "milliseconds, for all of DHCP: waiting for a turn included"},
		{"DHCP_REQ_TIMEOUT", "4000", "milliseconds, until it asks again"},
		{"TFTP_FILE_TIMEOUT", "30000", "milliseconds, for one file"},
		{"TFTP_PREFIX", "0", "names begin with the serial, which the boot server knows it by"},
		{"NET_BOOT_MAX_RETRIES", "-1", "for ever: the server may start later than this Pi"},
	}
	if !strings.Contains(o.Order[2:], "f") {
		list[len(list)-1].why += "; the order has no f, so nothing else is tried after it"
	}
	if o.Server.IsValid() {
		list = append(list, setting{"TFTP_IP", o.Server.String(), "the boot server, whatever DHCP says"})
	}
	return list, nil
}

// Dates are from when on bootloaders do what a netbooted node wants of them
// (FACTS 3.3, 3.5).
var Dates = []string{
	"2019-10-08 takes the server's address from siaddr; older ones want option 66",
	"2022-10-03 takes blocks of 1468 bytes; older ones 1024, so that files end at 64 MiB",
	"2025-09-23 takes files of more than 65535 blocks; nothing here is as large",
}

// Text returns the configuration for people, with the reasons.
func Text(o Options) (string, error) {
	list, err := o.settings()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("# The bootloader of a Pi 4, 400, 5, 500 or Compute Module of these, started from the\n# network. Put it in by: sudo rpi-eeprom-config --edit\n# Bootloaders from\n")
	for _, d := range Dates {
		b.WriteString("#   " + d + "\n")
	}
	b.WriteString("[all]\n")
	for _, s := range list {
		fmt.Fprintf(&b, "# %s\n%s=%s\n", s.why, s.key, s.value)
	}
	return b.String(), nil
}

// Sections of an image of the EEPROM, each with a length behind its magic
// number, both high byte first, and at a multiple of eight bytes (FACTS 3.8).
const (
	magicCode = 0x55aaf00f
	magicFile = 0x55aaf11f
	magicPad  = 0x55aafeef

	nameSize = 12
	fileHead = 8 + nameSize
	maxFile  = 4096 - fileHead // a file has one erase sector
	confName = "bootconf.txt"
)

// Sizes of images: of a Pi 4 and of a Pi 5, bytes (FACTS 3.8).
var sizes = []int{512 << 10, 2 << 20}

// place is where the configuration is in an image.
type place struct{ at, text, length int } // of its section, its content, and of that

// find looks for the configuration.
func find(image []byte) (place, error) {
	if !slices.Contains(sizes, len(image)) {
		return place{}, fmt.Errorf("it has %d bytes; an image of a bootloader has %d or %d", len(image), sizes[0], sizes[1])
	}
	for at := 0; at+8 <= len(image); {
		magic, length := binary.BigEndian.Uint32(image[at:]), int(binary.BigEndian.Uint32(image[at+4:]))
		if magic != magicCode && magic != magicFile && magic != magicPad {
			break // the end of what is used
		}
		if length < 0 || length > len(image)-at-8 {
			return place{}, fmt.Errorf("its section at byte %d is longer than it", at)
		}
		if magic == magicFile && length >= nameSize && string(bytes.TrimRight(image[at+8:at+fileHead], "\x00")) == confName {
			p := place{at: at, text: at + fileHead, length: length - nameSize}
			// Tools leave a word of zeros behind the name, which is part of the
			// length. UNVERIFIED: no text begins with zeros, so it is looked at.
			if p.length >= 4 && bytes.Equal(image[p.text:p.text+4], make([]byte, 4)) {
				p.text, p.length = p.text+4, p.length-4
			}
			return p, nil
		}
		at = (at + 8 + length + 7) &^ 7
	}
	return place{}, errors.New("it has no " + confName + ": is it an image of a bootloader, such as pieeprom-2026-08-04.bin of Raspberry Pi's rpi-eeprom?")
}

// Config returns the configuration in an image.
func Config(image []byte) (string, error) {
	p, err := find(image)
	if err != nil {
		return "", err
	}
	return string(image[p.text : p.text+p.length]), nil
}

// Update returns an image with Options in its configuration. What it says of
// other things stays; so does what it says for some boards only, which comes
// before and is overruled.
func Update(image []byte, o Options) ([]byte, error) {
	p, err := find(image)
	if err != nil {
		return nil, err
	}
	list, err := o.settings()
	if err != nil {
		return nil, err
	}
	text := merged(string(image[p.text:p.text+p.length]), list)
	if most := maxFile - (p.text - p.at - fileHead); len(text) > most {
		return nil, fmt.Errorf("its configuration would have %d bytes, and there is room for %d", len(text), most)
	}
	end := p.at + 4096 // of the erase sector, which nothing else is in
	if p.at%4096 != 0 || end > len(image) {
		return nil, fmt.Errorf("its %s is at byte %d, which is no erase sector", confName, p.at)
	}
	out := slices.Clone(image)
	binary.BigEndian.PutUint32(out[p.at+4:], uint32(p.text-p.at-8+len(text)))
	n := copy(out[p.text:end], text)
	rest := out[p.text+n : end]
	for i := range rest {
		rest[i] = 0xff
	}
	// What follows, up to the next sector, is padding with a head of its own.
	if at := (p.text + n + 7) &^ 7; at+8 <= end {
		binary.BigEndian.PutUint32(out[at:], magicPad)
		binary.BigEndian.PutUint32(out[at+4:], uint32(end-at-8))
	}
	return out, nil
}

// merged puts settings behind a configuration, and takes out what they replace
// where that is for all boards.
func merged(text string, list []setting) string {
	ours := func(line string) bool {
		key, _, ok := strings.Cut(line, "=")
		return ok && slices.ContainsFunc(list, func(s setting) bool { return s.key == strings.TrimSpace(key) })
	}
	// [config.txt] is not a filter: what is behind it is for the next stage.
	text, next, has := strings.Cut(text, "[config.txt]")
	var kept []string
	all := true
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(line, "[") {
			all = line == "[all]"
		}
		if !all || !ours(line) {
			kept = append(kept, line)
		}
	}
	for len(kept) > 0 && kept[len(kept)-1] == "" {
		kept = kept[:len(kept)-1]
	}
	kept = append(kept, "[all]")
	for _, s := range list {
		kept = append(kept, s.key+"="+s.value)
	}
	out := strings.Join(kept, "\n") + "\n"
	if has {
		out += "[config.txt]" + next
	}
	return out
}

// Digest returns what lies beside an update as pieeprom.sig: its digest, and
// when it was made, in Unix time. A bootloader takes an update by itself when
// that is later than the one it has (FACTS 3.5, 3.6).
func Digest(update []byte, made int64) []byte {
	sum := sha256.Sum256(update)
	return fmt.Appendf(nil, "%s\nts: %d\n", hex.EncodeToString(sum[:]), made)
}
