// Package motd describes a boot to people: at a login, and in pikeletd status.
package motd

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Write writes /etc/motd, which a login shows.
func Write(b node.Boot, p node.Prepared) error {
	return os.WriteFile("/etc/motd", []byte(Text(b, p, runfiles.RootConsole())), 0o644)
}

// Text returns what a login shows. An image with an open console also says what
// to try.
func Text(b node.Boot, p node.Prepared, open bool) string {
	s := "\nPikelet " + b.Stream + " " + b.Release + "\n\n" + Describe(b, p)
	switch {
	case b.Kind == slots.Trial:
		s += "\nThis is a trial of slot " + string(b.Slot) + ": any reboot goes back to slot " + string(b.Slot.Other()) + ".\n"
	case p.Config.Source == node.FromTrial:
		s += "\nThis boot tries a config. Without doas pikeletd config confirm the node goes back to the one before.\n"
	case open && b.Slot == slots.Net:
		s += "\nTry: pikeletd status; touch /usr/x; poweroff\n"
	case open:
		s += "\nTry: pikeletd status; pikeletd reboot --try (slot " + string(b.Slot.Other()) + ", once); touch /usr/x; poweroff\n"
	}
	return s + "\n"
}

// Describe returns how this boot went, a line for each fact.
func Describe(b node.Boot, p node.Prepared) string {
	var s strings.Builder
	fmt.Fprintf(&s, "node    %s, config from %s\n", p.Hostname, age(p.Config))
	fmt.Fprintf(&s, "image   %s %s (build %s)\n", b.Stream, b.Release, b.BuildID)
	if b.Slot == slots.Net {
		fmt.Fprintf(&s, "slot    none: started without a card, by the boot server %s\n", b.Server)
	} else {
		fmt.Fprintf(&s, "slot    %s, %s, on %s\n", b.Slot, b.Kind, b.Disk)
	}
	fmt.Fprintf(&s, "root    verified by dm-verity, root hash %s\n", b.Root)
	fmt.Fprintf(&s, "signed  %s\n", b.Signed)
	if b.Watchdog != 0 {
		s.WriteString("guarded by the hardware watchdog\n")
	}
	if b.Failed != "" {
		head := "failed "
		if b.Kind == slots.Rescue {
			head = "RESCUE "
		}
		fmt.Fprintf(&s, "%s %s\n", head, Indent(b.Failed))
	}
	for _, text := range p.Problems {
		fmt.Fprintf(&s, "PROBLEM %s\n", Indent(text))
	}
	return s.String()
}

// Indent indents all lines but the first to the values of Describe.
func Indent(text string) string { return strings.ReplaceAll(text, "\n", "\n        ") }

// age returns where a config came from and when.
func age(c node.ConfigStatus) string {
	if c.Taken == 0 {
		return c.Source
	}
	return fmt.Sprintf("%s, taken %s", c.Source, time.Unix(c.Taken, 0).UTC().Format("2006-01-02 15:04 UTC"))
}
