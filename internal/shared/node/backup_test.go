package node

import (
	"strings"
	"testing"
	"time"
)

// TestBackupTrouble: a backup that failed, is too old or was never made is told of.
func TestBackupTrouble(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	ago := func(h int) int64 { return now.Add(-time.Duration(h) * time.Hour).Unix() }
	for want, s := range map[string]BackupStatus{
		"": {Success: ago(1), Name: "a"}, "no backup was made yet": {}, "too old": {Success: ago(13), Name: "a"},
		"failed: the store is full; the last good one is a, of 2026-11-30 11:00 UTC": {Success: ago(1), Name: "a", Problem: "the store is full"},
		"failed: x; there is no good one":                                            {Problem: "x"},
	} {
		if got := s.Trouble(12*time.Hour, now); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%+v: got %q, want %q", s, got, want)
		}
	}
}

func TestBackupMetrics(t *testing.T) {
	got := BackupStatus{Success: 1796000000, Failures: 2}.Metrics(time.Hour)
	for _, want := range []string{"\npikelet_backup_last_success_timestamp_seconds 1.796e+09\n", "\npikelet_backup_failures 2\n",
		"\npikelet_backup_max_age_seconds 3600\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
}

func FuzzBackupStatus(f *testing.F) {
	f.Add([]byte(`{"store":"/mnt/nas","success":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeBackup(b)
		if err != nil {
			return
		}
		s.Trouble(time.Hour, time.Unix(0, 0))
		again, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if e, err := DecodeBackup(again); err != nil || e != s {
			t.Errorf("%+v became %+v, %v", s, e, err)
		}
	})
}
