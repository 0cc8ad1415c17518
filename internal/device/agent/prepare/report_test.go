package prepare

import (
	"testing"

	"github.com/pikelet-os/pikelet/internal/device/updater"
)

// TestReportKeepsWhatItMust: a boot rewrites its own part of report.txt, and
// leaves why an earlier one failed and what became of an upgrade.
func TestReportKeepsWhatItMust(t *testing.T) {
	old := "attic runs lab 1.0\n" + failure + "\nslot b: broken\n\n" + updater.Heading + "\nRelease 1.1 was tried\n" + "\n\n\n\x00\x00"
	got := earlier(old)
	if want := "\nWhat follows is of an earlier boot.\n\n" + failure + "\nslot b: broken\n\n" + updater.Heading + "\nRelease 1.1 was tried\n"; got != want {
		t.Errorf("kept %q, want %q", got, want)
	}
	if again := earlier("attic runs lab 1.0\n" + got); again != got {
		t.Errorf("kept twice it is %q", again)
	}
	if got := earlier("attic runs lab 1.0\n\n\n"); got != "" {
		t.Errorf("kept %q of nothing", got)
	}
}
