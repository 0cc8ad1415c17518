package controller

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// TestLibrariesLogWarnings: of libraries only what is a warning at least is logged, with
// its fields, and nothing once the controller is to end.
func TestLibrariesLogWarnings(t *testing.T) {
	var b bytes.Buffer
	ended := make(chan struct{})
	log := slog.New(warnings{slog.NewTextHandler(&b, nil), ended}).With("controller", "rollout").WithGroup("lease")
	log.Info("Starting workers")
	log.Error("lost", "name", "pikelet-rollout")
	close(ended)
	log.Error("leader election lost")
	got := b.String()
	if strings.Contains(got, "election") || strings.Contains(got, "Starting") ||
		!strings.Contains(got, "lost controller=rollout lease.name=pikelet-rollout") {
		t.Errorf("got %q", got)
	}
}
