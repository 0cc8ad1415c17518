package prepare

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

const (
	goodConfig  = "hostname: attic\n"
	triedConfig = "hostname: roof\n"
)

// boots has a node with a good config boot, and returns the name it takes.
func (p configs) boots(t *testing.T) (string, node.ConfigStatus) {
	t.Helper()
	cfg, st := p.take(nodeconfig.Machine{}, node.StateStatus{})
	return cfg.Hostname, st
}

// sendTried has a node try triedConfig from its next boot on.
func sendTried(t *testing.T) (configs, *fakeCard) {
	t.Helper()
	p, c := places(t)
	fill(t, p.kept, goodConfig)
	if err := p.trySent(strings.NewReader(triedConfig), nodeconfig.Machine{}, node.StateStatus{}, 5*time.Minute); err != nil {
		t.Fatal(err)
	}
	return p, c
}

// TestTriedConfigHasOneBoot: a config that is tried counts on one boot. Without a
// confirmation the next one goes by the good config, and so do all after it.
func TestTriedConfigHasOneBoot(t *testing.T) {
	p, _ := sendTried(t)
	name, st := p.boots(t)
	if name != "roof" || st.Source != node.FromTrial || st.Digest != node.ConfigDigest(triedConfig) || st.Refused != "" {
		t.Errorf("the boot that tries: %q, %+v", name, st)
	}
	if b, err := os.ReadFile(p.kept); err != nil || string(b) != goodConfig {
		t.Errorf("the good config became %q, %v", b, err)
	}
	for _, boot := range []string{"after a power cut", "the one after"} {
		name, st := p.boots(t)
		if name != "attic" || st.Source != node.FromState || !strings.Contains(st.Refused, "the one that was tried was left: "+endedEarly) {
			t.Errorf("%s: %q, %+v", boot, name, st)
		}
	}
	b, err := os.ReadFile(p.trial)
	if err != nil || strings.Contains(string(b), "roof") {
		t.Errorf("what was left is still there: %s, %v", b, err)
	}
	if err := p.confirm(node.ConfigDigest(triedConfig)); err == nil || !strings.Contains(err.Error(), endedEarly) {
		t.Errorf("a confirmation that comes too late: %v", err)
	}
}

// TestTriedConfigIsConfirmed: a confirmed config is the good one; a second
// confirmation, and one of another config, change nothing.
func TestTriedConfigIsConfirmed(t *testing.T) {
	p, _ := sendTried(t)
	digest := node.ConfigDigest(triedConfig)
	if err := p.confirm(digest); err == nil || !strings.Contains(err.Error(), "tries no config") {
		t.Errorf("before its boot: %v", err)
	}
	p.boots(t)
	if err := p.confirm(node.ConfigDigest(goodConfig)); err == nil || !strings.Contains(err.Error(), "tries the config with digest") {
		t.Errorf("another digest: %v", err)
	}
	for range 2 {
		if err := p.confirm(digest); err != nil {
			t.Fatal(err)
		}
	}
	q, _ := sendTried(t)
	q.boots(t)
	if err := q.confirm(""); err != nil {
		t.Errorf("whichever is tried: %v", err)
	}
	if again, err := p.expire(digest); again || err != nil {
		t.Errorf("the time is over after the confirmation: restarts %v, %v", again, err)
	}
	if name, st := p.boots(t); name != "roof" || st.Source != node.FromState || st.Refused != "" {
		t.Errorf("the next boot: %q, %+v", name, st)
	}
}

// TestConfirmationSurvivesPowerCut: the power goes when the config is kept and the
// record of its trial is still there.
func TestConfirmationSurvivesPowerCut(t *testing.T) {
	p, _ := sendTried(t)
	p.boots(t)
	fill(t, p.kept, triedConfig)
	if name, st := p.boots(t); name != "roof" || st.Source != node.FromState || st.Refused != "" {
		t.Errorf("the next boot: %q, %+v", name, st)
	}
	if _, err := os.Stat(p.trial); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the record is still there: %v", err)
	}
}

// TestTriedConfigNeedsItsRecord: where the record that its boot begins cannot be
// written, a config is not tried: it could be tried forever.
func TestTriedConfigNeedsItsRecord(t *testing.T) {
	p, _ := sendTried(t)
	b, err := os.ReadFile(p.trial)
	if err != nil {
		t.Fatal(err)
	}
	full := filepath.Join(t.TempDir(), "gone", "trial.json")
	fill(t, full, string(b))
	p.trial = full
	if err := os.Mkdir(full+".new", 0o700); err != nil { // where atomicfile writes
		t.Fatal(err)
	}
	fill(t, full+".new/x", "")
	if name, st := p.boots(t); name != "attic" || !strings.Contains(st.Refused, "cannot be tried") {
		t.Errorf("%q, %+v", name, st)
	}
}

// TestCardOverridesTrial: a config that somebody put onto the card counts, and is not
// undone by a trial; so does one that is sent without a trial.
func TestCardOverridesTrial(t *testing.T) {
	for _, begun := range []bool{false, true} {
		p, c := sendTried(t)
		if begun {
			p.boots(t)
		}
		c.text = "hostname: cellar\n"
		for range 2 {
			if name, st := p.boots(t); name != "cellar" || st.Source == node.FromTrial {
				t.Errorf("begun %v: %q, %+v", begun, name, st)
			}
		}
	}
	p, _ := sendTried(t)
	send := func() error {
		return p.takeSent(strings.NewReader("hostname: cellar\n"), &bytes.Buffer{}, nodeconfig.Machine{}, node.StateStatus{})
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
	if name, st := p.boots(t); name != "cellar" || !strings.Contains(st.Refused, sentOverrode) {
		t.Errorf("%q, %+v", name, st)
	}
	p, _ = sendTried(t)
	p.boots(t)
	if err := send(); !errors.Is(err, errTrialGoesOn) {
		t.Errorf("sent during a trial: %v", err)
	}
	err := p.trySent(strings.NewReader(goodConfig), nodeconfig.Machine{}, node.StateStatus{}, time.Minute)
	if !errors.Is(err, errTrialGoesOn) {
		t.Errorf("another trial during a trial: %v", err)
	}
}

// TestTrySentRefuses: what could not be tried is refused before the node restarts.
func TestTrySentRefuses(t *testing.T) {
	p, _ := places(t)
	for _, c := range []struct {
		text, want string
		wait       time.Duration
		state      node.StateStatus
	}{
		{"hostname: ATTIC\n", "want lower-case letters", time.Minute, node.StateStatus{}},
		{triedConfig, "a trial of 1s: want 10s to 1h0m0s", time.Second, node.StateStatus{}},
		{triedConfig, "a trial of 2h0m0s", 2 * time.Hour, node.StateStatus{}},
		{triedConfig, "state is in memory", time.Minute, node.StateStatus{Memory: "no card"}},
		{"# nothing\n", "empty", time.Minute, node.StateStatus{}},
	} {
		err := p.trySent(strings.NewReader(c.text), nodeconfig.Machine{}, c.state, c.wait)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q, %v: %v, want %q", c.text, c.wait, err, c.want)
		}
		if _, err := os.Stat(p.trial); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q left a record: %v", c.text, err)
		}
	}
}

// TestTrialEndsInTime: the node restarts when its time is over, and not before; a
// daemon that is started again does not wait anew; a confirmed config stays.
func TestTrialEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := sendTried(t)
		p.boots(t)
		since, start, restarted := filepath.Join(t.TempDir(), "since"), time.Now(), time.Time{}
		restart := func() error { restarted = time.Now(); return nil }
		log := slog.New(slog.DiscardHandler)
		crashed, stop := context.WithTimeout(t.Context(), 2*time.Minute)
		defer stop()
		if err := p.watch(crashed, since, 60*time.Second, log, restart); err != nil || !restarted.IsZero() {
			t.Fatalf("%v, restarted at %v", err, restarted)
		}
		err := p.watch(t.Context(), since, 180*time.Second, log, restart)
		if after := restarted.Sub(start); err != nil || after.Round(time.Second) != 5*time.Minute {
			t.Errorf("%v; restarted after %v, want 5m", err, after)
		}
		if name, st := p.boots(t); name != "attic" || !strings.Contains(st.Refused, "it was not confirmed within 5m0s") {
			t.Errorf("the next boot: %q, %+v", name, st)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p, _ := sendTried(t)
		p.boots(t)
		time.AfterFunc(4*time.Minute, func() {
			if err := p.confirm(node.ConfigDigest(triedConfig)); err != nil {
				t.Error(err)
			}
		})
		restart := func() error { t.Error("a node restarts though its config was confirmed"); return nil }
		if err := p.watch(t.Context(), filepath.Join(t.TempDir(), "since"), 0, slog.New(slog.DiscardHandler), restart); err != nil {
			t.Error(err)
		}
	})
}

// TestConfigReport: what the node says of its config, with no secret in it.
func TestConfigReport(t *testing.T) {
	p, _ := places(t)
	key := []byte("key")
	report := func(source, digest string) node.ConfigReport {
		t.Helper()
		prepared := node.Prepared{Config: node.ConfigStatus{Source: source, Digest: digest}}
		r, err := p.report(prepared, key)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := report(node.FromNone, ""); r.Config != "" || r.Pending || r.Trial != nil {
		t.Errorf("without any: %+v", r)
	}
	const text = "hostname: attic\nk3s: {role: agent, server: 'https://10.0.0.1:6443', token: the-token}\n"
	fill(t, p.kept, text)
	r := report(node.FromState, node.ConfigDigest(text))
	if !strings.Contains(r.Config, "token: (secret, digest ") || strings.Contains(r.Config, "the-token") || r.Pending {
		t.Errorf("%+v", r)
	}
	if r := report(node.FromState, node.ConfigDigest(goodConfig)); !r.Pending {
		t.Error("a config that counts from the next boot on is not pending")
	}
	if err := p.trySent(strings.NewReader(triedConfig), nodeconfig.Machine{}, node.StateStatus{}, time.Minute); err != nil {
		t.Fatal(err)
	}
	p.boots(t)
	r = report(node.FromTrial, node.ConfigDigest(triedConfig))
	if !strings.Contains(r.Config, "hostname: roof") || r.Pending || r.Trial == nil ||
		r.Trial.Step != node.TrialBegun || r.Trial.Config != "" {
		t.Errorf("in a trial: %+v", r)
	}
}
