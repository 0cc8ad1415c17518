package volume

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMountProblem: a filesystem that the kernel shut down is still mounted.
func TestMountProblem(t *testing.T) {
	const head = "1 0 0:2 / / rw - squashfs /dev/root ro\n"
	gone := func(string) bool { return false }
	there := func(device string) bool { return device == "8:16" }
	for _, c := range []struct {
		info  string
		there func(string) bool
		want  string
	}{
		{"30 1 8:16 / /vol rw,noatime shared:5 - ext4 /dev/sdb rw,errors=continue", there, ""},
		{"30 1 0:40 / /vol rw,noatime - tmpfs tmpfs rw,size=1k", gone, ""},
		{"30 1 8:16 / /vol rw,noatime - ext4 /dev/sdb ro,errors=continue", there, "shut down"},
		{"30 1 8:16 / /vol rw,noatime - ext4 /dev/sdb rw,emergency_ro", there, "shut down"},
		{"30 1 8:16 / /vol rw,noatime - ext4 /dev/sdb rw,shutdown", there, "shut down"},
		{"30 1 8:16 / /vol ro,noatime - ext4 /dev/sdb rw", there, "shut down"},
		{"30 1 8:16 / /vol rw,noatime - ext4 /dev/sdb rw", gone, "its disk is gone: /dev/sdb"},
		{"30 1 8:16 / /volume rw,noatime - ext4 /dev/sdb rw", there, "not mounted"},
	} {
		got := mountProblem(head+c.info+"\n", "/vol", c.there)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.info, got, c.want)
		}
	}
}

func TestWriteProblem(t *testing.T) {
	for err, want := range map[error]string{
		nil: "", unix.EOPNOTSUPP: "", unix.EROFS: "shut down", unix.EIO: "shut down",
		unix.ENOSPC: "no space", errors.New("x"): "no file can be made",
	} {
		if got := writeProblem(err); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
	if err := tryWriting(t.TempDir()); err != nil {
		t.Errorf("a directory that takes files: %v", err)
	}
}
