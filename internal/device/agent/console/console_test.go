package console

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
)

func TestHandler(t *testing.T) {
	var b strings.Builder
	log := slog.New(NewHandler(&b, "pikelet"))
	log.Debug("not shown")
	log.Info("restarting")
	log.With("channel", "lab:stable").Warn("looking for new releases", "err", errors.New("no route to host"), "where", "a b")
	want := "pikelet: restarting\npikelet: looking for new releases channel=lab:stable where=\"a b\": no route to host\n"
	if b.String() != want {
		t.Errorf("logged %q, want %q", b.String(), want)
	}
	b.Reset()
	slog.New(NewHandler(&b, "")).Info("restarting")
	if want := "restarting\n"; b.String() != want {
		t.Errorf("without a prefix: logged %q, want %q", b.String(), want)
	}
}
