package program

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/apiserver"
	"github.com/pikelet-os/pikelet/internal/device/backup"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// hands is a clock that a test sets.
type hands struct{ now time.Time }

func (h *hands) Now() time.Time                            { return h.now }
func (h *hands) Synchronised() bool                        { return true }
func (h *hands) Elapsed() time.Duration                    { return 0 }
func (h *hands) Sleep(context.Context, time.Duration) bool { return false }
func (h *hands) Random() float64                           { return 0 }

// TestService: backups are made when they are due, what fails is tried again later and
// later, and the cluster hears of trouble once, and of its end.
func TestService(t *testing.T) {
	h := &hands{time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC)}
	var status node.BackupStatus
	var fails error
	var tries int
	var events []string
	s := &service{config: nodeconfig.Backup{To: "/mnt/nas", Every: nodeconfig.Duration(6 * time.Hour)}, clock: h, name: "attic",
		log:   slog.New(slog.DiscardHandler),
		read:  func() (node.BackupStatus, error) { return status, nil },
		write: func(s node.BackupStatus) error { status = s; return nil },
		make: func(_ context.Context, now time.Time) (backup.Made, error) {
			tries++
			if fails != nil {
				return backup.Made{}, fails
			}
			return backup.Made{Name: "a", Size: 1, At: now}, nil
		},
		tell: func(_ context.Context, e apiserver.Event) error { events = append(events, e.Reason); return nil }}
	pass := func(d time.Duration, want int) {
		t.Helper()
		tries = 0
		for end := h.now.Add(d); h.now.Before(end); h.now = h.now.Add(tick) {
			if err := s.turn(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		if tries != want {
			t.Errorf("%d backups were tried within %v, want %d", tries, d, want)
		}
	}
	fails = backup.ErrNoServer
	pass(3*time.Minute, 3)
	if status.Attempt != 0 || len(events) > 0 {
		t.Errorf("a node without a server yet: got %+v, events %q", status, events)
	}
	fails = nil
	pass(12*time.Hour, 2)
	fails = errors.New("the store is full")
	pass(6*time.Hour, 9) // after 5, 10, 20, 40 and then 60 minutes
	if status.Failures != 9 || status.Problem != "the store is full" || status.Name != "a" {
		t.Errorf("got %+v", status)
	}
	fails = nil
	pass(time.Hour, 1)
	if status.Failures != 0 || status.Problem != "" {
		t.Errorf("got %+v", status)
	}
	if len(events) != 2 || events[0] != "BackupFailed" || events[1] != "BackedUp" {
		t.Errorf("got events %q", events)
	}
	// What this store has is not known of another.
	s.config.To = "/mnt/other"
	pass(tick, 1)
}

// TestServiceTellsOfAge: a backup that is too old is told of where none is tried, too.
func TestServiceTellsOfAge(t *testing.T) {
	now := time.Unix(1796000000, 0)
	told := ""
	s := &service{config: nodeconfig.Backup{At: "03:00"}, name: "attic", log: slog.New(slog.DiscardHandler),
		tell: func(_ context.Context, e apiserver.Event) error { told = e.Reason; return nil }}
	s.report(context.Background(), node.BackupStatus{Success: now.Unix() - 49*3600, Name: "a"}, now)
	if told != "BackupTooOld" {
		t.Errorf("got event %q", told)
	}
}
