package cli

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestLoginsOfMirrors: logins come from the file that $NETRC names, which must
// be there, or from ~/.netrc, which need not.
func TestLoginsOfMirrors(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("NETRC", "")
	if list, err := logins(); err != nil || len(list) != 0 {
		t.Errorf("without a file: %v, %v", list, err)
	}
	write(t, filepath.Join(dir, ".netrc"), "machine a.example login anna password one\n", 0o600)
	if list, err := logins(); err != nil || list["a.example"].Password != "one" {
		t.Errorf("~/.netrc: %v, %v", list, err)
	}
	t.Setenv("NETRC", filepath.Join(dir, "other"))
	if _, err := logins(); err == nil {
		t.Error("a file that $NETRC names is missing, and nothing was said")
	}
	write(t, filepath.Join(dir, "other"), "machine a.example s3cret\n", 0o600)
	if _, err := logins(); err == nil || !strings.Contains(err.Error(), "other: line 1") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("a file that cannot be read: %v", err)
	}
	t.Setenv("HOME", "")
	t.Setenv("NETRC", "")
	if _, err := logins(); err != nil {
		t.Errorf("without a home directory: %v", err)
	}
}
