package slots

import (
	"fmt"
	"strings"
)

// report.txt on the control partition (ReportFile) is for people: how the last boot
// went, from pikeletd prepare; why a boot failed, from /init; and how the last
// upgrade ended, from the updater. Each of the three writers leaves what the others
// wrote, but for /init, which cannot know what a boot that failed has damaged.

// Headings of the parts of a report. A part ends where the next one begins.
const (
	failureHeading = "Pikelet could not start.\n"
	upgradeHeading = "What became of the last upgrade:\n"
	earlierHeading = "What follows is of an earlier boot.\n"
)

// FailureReport returns the report of a boot that failed. failures is the text of
// the record (AddFailure).
func FailureReport(failures, stream, release, build string) string {
	return fmt.Sprintf("%s\n%s\n\nstream %s, release %s, build %s\n", failureHeading, failures, stream, release, build)
}

// BootReport returns the report of a boot that came up: its text, and what the old
// report says of an earlier failure and the last upgrade.
func BootReport(text, old string) string {
	kept := keptParts(old)
	if kept == "" {
		return text
	}
	return text + "\n" + earlierHeading + "\n" + strings.TrimRight(kept, "\n\x00") + "\n"
}

// UpgradeReport returns the old report with text as its part about the last
// upgrade.
func UpgradeReport(text, old string) string {
	head, _, _ := strings.Cut(old, upgradeHeading)
	return strings.TrimRight(head, "\n\x00") + "\n\n" + upgradeHeading + "\n" + text
}

// UpgradePart returns what a report says of the last upgrade; "" for nothing.
func UpgradePart(report string) string {
	_, text, _ := strings.Cut(report, upgradeHeading)
	return strings.TrimPrefix(text, "\n")
}

// keptParts returns the parts of a report that a boot which comes up leaves.
func keptParts(report string) string {
	at := len(report)
	for _, heading := range []string{failureHeading, upgradeHeading} {
		if i := strings.Index(report, heading); i >= 0 {
			at = min(at, i)
		}
	}
	return report[at:]
}
