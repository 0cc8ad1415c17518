// Package eeprom builds the configuration with which the bootloader of a Pi 4 or 5
// boots from the network, as text, and as an update file that the bootloader
// installs from a card.
package eeprom

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Options configure a bootloader.
type Options struct {
	// Order is BOOT_ORDER, read from its last digit: 1 card, 2 network, 4 USB,
	// 6 NVMe, f begin again (docs/platform.md 3.4).
	Order string
	// Server is TFTP_IP; zero where DHCP names it.
	Server netip.Addr
}

// DefaultOrder tries a card, then the network, and starts over: a Pi without a card
// boots from the network, and a card can still repair it.
const DefaultOrder = "0xf21"

var orderForm = regexp.MustCompile(`^0x[0-7ef]{1,8}$`)

// setting is one line of the configuration, with its reason.
type setting struct{ key, value, why string }

// settings returns the settings for Options (docs/platform.md 3.4, 3.5).
func (o Options) settings() ([]setting, error) {
	switch {
	case !orderForm.MatchString(o.Order):
		return nil, fmt.Errorf("invalid boot order %q: want a number such as %s, "+
			"read from its last digit: 1 card, 2 network, 4 USB, 6 NVMe, f begin again", o.Order, DefaultOrder)
	case !strings.Contains(o.Order[2:], "2"):
		return nil, fmt.Errorf("boot order %s: missing digit 2, the network", o.Order)
	case o.Server.IsValid() && !o.Server.Is4():
		return nil, fmt.Errorf("invalid server address %s: want IPv4", o.Server)
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

// change is a release of a chip's bootloader that matters to a node started
// from the network.
type change struct {
	chip Chip
	date string // of the release: YYYY-MM-DD
	what string
	need bool // whether an image from before it cannot start a node
}

// changes follow firmware-2711/release-notes.md and
// firmware-2712/release-notes.md of raspberrypi/rpi-eeprom.
func changes() []change {
	return []change{
		{BCM2711, "2019-09-23", "starts from the network at all", true},
		{BCM2711, "2019-10-08", "takes the server's address from siaddr; older ones want option 66", false},
		{BCM2711, "2022-10-03", "takes blocks of 1468 bytes; older ones 1024, so that files end at 64 MiB", false},
		{BCM2711, "2025-09-23", "takes files of more than 65535 blocks; nothing here is as large", false},
		{BCM2712, "2023-10-18", "asks the network again after a first attempt that failed; older ones need a power cycle", false},
		{BCM2712, "2025-09-23", "takes files of more than 65535 blocks; nothing here is as large", false},
	}
}

// Text returns the configuration for people, with the reasons.
func Text(o Options) (string, error) {
	list, err := o.settings()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("# The bootloader of a Pi 4, 400, 5, 500 or Compute Module of these, started from the\n" +
		"# network. Put it in by: sudo rpi-eeprom-config --edit\n")
	for _, chip := range []Chip{BCM2711, BCM2712} {
		fmt.Fprintf(&b, "# Bootloaders of a Pi %s from\n", chip.boards())
		for _, c := range changes() {
			if c.chip == chip {
				fmt.Fprintf(&b, "#   %s %s\n", c.date, c.what)
			}
		}
	}
	b.WriteString("[all]\n")
	for _, s := range list {
		fmt.Fprintf(&b, "# %s\n%s=%s\n", s.why, s.key, s.value)
	}
	return b.String(), nil
}

// merged appends settings to a configuration, and removes lines that they replace
// from its sections for all boards.
func merged(text string, list []setting) string {
	ours := func(line string) bool {
		key, _, ok := strings.Cut(line, "=")
		return ok && slices.ContainsFunc(list, func(s setting) bool { return s.key == strings.TrimSpace(key) })
	}
	// [config.txt] is not a filter: lines behind it are for the next stage.
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
