package node

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

const (
	// BackupFile is what became of the node's backups, on state.
	BackupFile = StateDir + "/backup.json"
	// MetricsFile is the same for Prometheus, as the textfile collector of
	// node_exporter reads it.
	MetricsFile = "/run/pikelet/metrics/backup.prom"
)

// BackupStatus says what became of a node's backups. pikelet-backup writes it.
type BackupStatus struct {
	Store string `json:"store"`          // address
	Name  string `json:"name,omitempty"` // of the last one that is good: whole, and read back
	Size  int64  `json:"size,omitempty"` // of it, in bytes
	// Success is when that was made, Attempt when the last one was tried, in seconds
	// since 1970; 0 for never.
	Success int64   `json:"success,omitempty"`
	Attempt int64   `json:"attempt,omitempty"`
	Seconds float64 `json:"seconds,omitempty"` // that the last one took
	// Failures is how many failed since, Problem why the last one did.
	Failures int    `json:"failures,omitempty"`
	Problem  string `json:"problem,omitempty"`
}

// Encode returns the bytes of BackupFile.
func (s BackupStatus) Encode() ([]byte, error) { return json.MarshalIndent(s, "", " ") }

// DecodeBackup reads BackupFile.
func DecodeBackup(b []byte) (BackupStatus, error) {
	var s BackupStatus
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("reading %s: %w", BackupFile, err)
	}
	return s, nil
}

// Trouble says what is wrong with the backups at some time; "" for nothing. oldAfter is how old
// the last good one may be.
func (s BackupStatus) Trouble(oldAfter time.Duration, now time.Time) string {
	last := "there is no good one"
	if s.Success != 0 {
		last = fmt.Sprintf("the last good one is %s, of %s", s.Name, time.Unix(s.Success, 0).UTC().Format("2006-01-02 15:04 UTC"))
	}
	switch {
	case s.Problem != "":
		return fmt.Sprintf("the last backup failed: %s; %s", s.Problem, last)
	case s.Success == 0:
		return "no backup was made yet"
	case now.Sub(time.Unix(s.Success, 0)) > oldAfter:
		return fmt.Sprintf("the last backup is too old: %s, and it may be %v old; does the service pikelet-backup run?", last, oldAfter)
	}
	return ""
}

// Metrics returns the bytes of MetricsFile.
func (s BackupStatus) Metrics(oldAfter time.Duration) string {
	var b strings.Builder
	gauge := func(name, help string, v float64) {
		fmt.Fprintf(&b, "# HELP pikelet_backup_%[1]s %[2]s\n# TYPE pikelet_backup_%[1]s gauge\npikelet_backup_%[1]s %[3]g\n", name, help, v)
	}
	gauge("last_success_timestamp_seconds", "When the last good backup was made, 0 for never.", float64(s.Success))
	gauge("last_attempt_timestamp_seconds", "When the last backup was tried, 0 for never.", float64(s.Attempt))
	gauge("failures", "How many backups failed since the last good one.", float64(s.Failures))
	gauge("size_bytes", "Size of the last good backup.", float64(s.Size))
	gauge("duration_seconds", "How long the last good backup took.", s.Seconds)
	gauge("max_age_seconds", "How old the last good backup may be.", oldAfter.Seconds())
	return b.String()
}
