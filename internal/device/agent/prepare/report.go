package prepare

import (
	"fmt"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/agent/card"
	"github.com/pikelet-os/pikelet/internal/device/updater"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// failure heads the part of report.txt that says why an earlier boot failed;
// it stays there until another one does.
const failure = "Pikelet could not start.\n"

// earlier returns the part of report.txt that a boot leaves as it is: why an
// earlier one failed, and what became of the last upgrade.
func earlier(report string) string {
	at := len(report)
	for _, heading := range []string{failure, updater.Heading} {
		if i := strings.Index(report, heading); i >= 0 {
			at = min(at, i)
		}
	}
	if at == len(report) {
		return ""
	}
	return "\nWhat follows is of an earlier boot.\n\n" + strings.TrimRight(report[at:], "\n\x00") + "\n"
}

// writeReport puts onto the control partition, which any computer reads, how
// this boot went. It says nothing that changes from boot to boot, so that a
// card is written only when there is something new.
func writeReport(c *card.Card, b node.Boot, p node.Prepared) error {
	var s strings.Builder
	fmt.Fprintf(&s, "%s runs %s %s (build %s) from slot %s.\n", p.Hostname, b.Stream, b.Release, b.BuildID, b.Slot)
	fmt.Fprintf(&s, "Its config came from %s.\nIts SSH host key is %s (%s)\n", strings.Replace(p.Config.Source, node.FromCard, "this partition", 1), p.HostKey, p.Fingerprint)
	for _, text := range p.Problems {
		fmt.Fprintf(&s, "\nPROBLEM: %s\n", text)
	}
	if old, err := c.ReadControl(slots.ReportFile); err == nil {
		s.WriteString(earlier(string(old)))
	}
	return c.WriteControl(slots.ReportFile, s.String())
}
