package controller

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// TestLibrariesLogWarnings: of libraries only what is a warning at least is logged, with
// its fields.
func TestLibrariesLogWarnings(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(warnings{slog.NewTextHandler(&b, nil)}).With("controller", "rollout").WithGroup("lease")
	log.Info("Starting workers")
	log.Error("lost", "name", "pikelet-rollout")
	if got := b.String(); strings.Contains(got, "Starting") || !strings.Contains(got, "lost controller=rollout lease.name=pikelet-rollout") {
		t.Errorf("got %q", got)
	}
}
