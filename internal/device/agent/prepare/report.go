package prepare

import (
	"fmt"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/agent/card"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// writeReport puts onto the control partition, which any computer reads, how
// this boot went. It says nothing that changes from boot to boot, so that a
// card is written only when there is something new.
func writeReport(c *card.Card, b node.Boot, p node.Prepared) error {
	var s strings.Builder
	fmt.Fprintf(&s, "%s runs %s %s (build %s) from slot %s.\n", p.Hostname, b.Stream, b.Release, b.BuildID, b.Slot)
	fmt.Fprintf(&s, "Its config came from %s.\nIts SSH host key is %s "+
		"(%s)\n", strings.Replace(p.Config.Source, node.FromCard, "this partition", 1), p.HostKey, p.Fingerprint)
	for _, text := range p.Problems {
		fmt.Fprintf(&s, "\nPROBLEM: %s\n", text)
	}
	old, _ := c.ReadControl(slots.ReportFile) // what cannot be read is lost already
	return c.WriteControl(slots.ReportFile, slots.BootReport(s.String(), string(old)))
}
