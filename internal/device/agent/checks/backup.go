package checks

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// backupCheck warns of backups that failed or are too old. It is a warning: an
// upgrade is not left because of a NAS that is away.
func backupCheck(s state, file string, now time.Time) node.Check {
	status, err := readBackup(file)
	if err != nil {
		return warning("backup", "", err.Error())
	}
	return warning("backup", "the last good one is "+status.Name, status.Trouble(s.cfg.Backup.OldAfter(), now))
}

// readBackup returns what became of the node's backups.
func readBackup(file string) (node.BackupStatus, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return node.BackupStatus{}, nil
	}
	if err != nil {
		return node.BackupStatus{}, err
	}
	return node.DecodeBackup(b)
}
