package k3s

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLastErrors: of a log, the last lines that say why k3s failed.
func TestLastErrors(t *testing.T) {
	for _, c := range []struct{ name, log, want string }{
		{"an empty log", "", ""},
		{"nothing failed", "time=\"2026-11-29T10:00:00Z\" level=info msg=\"Starting k3s v1.34.4+k3s1\"\n", ""},
		{"k3s and the kubelet in it", `time="2026-11-29T10:00:00Z" level=info msg="Running kubelet --address=0.0.0.0"
E1129 10:00:01.123456    2211 run.go:72] "command failed" err="failed to parse kubelet flag: unknown flag: --max-bods"
time="2026-11-29T10:00:01Z" level=error msg="kubelet exited: failed to parse kubelet flag: unknown flag: --max-bods"
time="2026-11-29T10:00:01Z" level=info msg="stopping"
`, `run.go:72] "command failed" err="failed to parse kubelet flag: unknown flag: --max-bods"; ` +
			`"kubelet exited: failed to parse kubelet flag: unknown flag: --max-bods"`},
		{"the same again and again", strings.Repeat("level=fatal msg=\"no space left on device\"\n", 9), `"no space left on device"`},
		{"control characters", "level=fatal msg=\"a\x1b[2J\x07b\"\r\n", `"a[2Jb"`},
		{"only the end is read", "level=fatal msg=first\n" + strings.Repeat("level=info msg=x\n", 9000), ""},
	} {
		name := filepath.Join(t.TempDir(), "k3s.log")
		if err := os.WriteFile(name, []byte(c.log), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := LastErrors(name); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	if got := LastErrors(filepath.Join(t.TempDir(), "none")); got != "" {
		t.Errorf("no log: got %q", got)
	}
	long := filepath.Join(t.TempDir(), "k3s.log")
	if err := os.WriteFile(long, []byte("error: "+strings.Repeat("é", 9000)+"\nerror: "+strings.Repeat("x", 9000)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := LastErrors(long); len(got) > maxReason || !strings.Contains(got, "...; error: x") {
		t.Errorf("long lines: %d bytes: %q", len(got), got)
	}
}
