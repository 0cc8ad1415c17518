package checks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// TestBackupCheck: backups that failed or are too old are a warning, which leaves no
// upgrade.
func TestBackupCheck(t *testing.T) {
	s := state{cfg: &nodeconfig.Config{Backup: nodeconfig.Backup{To: "/mnt/nas", Every: nodeconfig.Duration(6 * time.Hour)}}}
	now := time.Unix(1796000000, 0)
	for _, c := range []struct {
		status node.BackupStatus
		want   string
	}{
		{node.BackupStatus{Success: now.Unix() - 3600, Name: "a"}, ""},
		{node.BackupStatus{Success: now.Unix() - 13*3600, Name: "a"}, "too old"},
		{node.BackupStatus{Success: now.Unix() - 3600, Name: "a", Problem: "the store is full"}, "the store is full"},
		{node.BackupStatus{}, "no backup"},
	} {
		name := filepath.Join(t.TempDir(), "backup.json")
		b, err := c.status.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := backupCheck(s, name, now); !got.OK || got.Warning != (c.want != "") || !strings.Contains(got.Says, c.want) {
			t.Errorf("%+v: got %+v, want %q", c.status, got, c.want)
		}
	}
	if got := backupCheck(s, filepath.Join(t.TempDir(), "none"), now); !got.Warning || !got.OK {
		t.Errorf("without a status: got %+v", got)
	}
}
