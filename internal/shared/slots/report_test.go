package slots

import (
	"strings"
	"testing"
)

// TestReport: a boot rewrites its own part of report.txt, and keeps why an earlier
// one failed and how the last upgrade ended.
func TestReport(t *testing.T) {
	failed := FailureReport("slot b: broken", "lab", "1.0", "cafe")
	if want := "Pikelet could not start.\n\nslot b: broken\n\nstream lab, release 1.0, build cafe\n"; failed != want {
		t.Errorf("a failure is reported as %q, want %q", failed, want)
	}
	old := UpgradeReport("Release 1.1 was tried\n", failed) + "\n\n\n\x00\x00"
	got := BootReport("attic runs lab 1.0\n", old)
	want := "attic runs lab 1.0\n\nWhat follows is of an earlier boot.\n\n" + strings.TrimRight(failed, "\n") +
		"\n\nWhat became of the last upgrade:\n\nRelease 1.1 was tried\n"
	if got != want {
		t.Errorf("the report is %q, want %q", got, want)
	}
	if again := BootReport("attic runs lab 1.0\n", got); again != got {
		t.Errorf("written twice the report is %q, want %q", again, got)
	}
	if got := UpgradePart(got); got != "Release 1.1 was tried\n" {
		t.Errorf("the part about the upgrade is %q", got)
	}
	if got := BootReport("attic runs lab 1.0\n", "attic runs lab 0.9\n\n\n"); got != "attic runs lab 1.0\n" {
		t.Errorf("the report is %q, want only the part of the boot", got)
	}
}

func FuzzReport(f *testing.F) {
	f.Add("attic runs lab 1.0\n", "Release 1.1 was tried\n", "")
	f.Add("", "", FailureReport("slot a: why", "lab", "1", "cafe")+"\n\n\x00")
	f.Fuzz(func(t *testing.T, boot, upgrade, old string) {
		if strings.Contains(boot+old, upgradeHeading) || strings.Contains(boot, failureHeading) ||
			upgrade != strings.TrimRight(upgrade, "\n\x00")+"\n" {
			t.Skip("texts of ours do not hold headings and end with one line feed")
		}
		report := UpgradeReport(upgrade, old)
		if got := UpgradePart(report); got != upgrade {
			t.Errorf("%q: the part about the upgrade is %q, want %q", report, got, upgrade)
		}
		report = BootReport(boot, report)
		if got := UpgradePart(report); got != upgrade {
			t.Errorf("%q: the part about the upgrade is %q, want %q", report, got, upgrade)
		}
		if again := BootReport(boot, report); again != report {
			t.Errorf("written twice the report is %q, want %q", again, report)
		}
	})
}
