package upgrade

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/certtest"
)

// pollStart is when the worlds of these tests begin.
var pollStart = time.Date(2026, 11, 26, 20, 0, 0, 0, time.UTC)

// world is a poller, a clock, a channel, and what the poller did when.
type world struct {
	*poller
	did   []string
	clock *testClock
	names func(time.Time) (digest string, err error) // what the channel names
}

// add records what the poller does now.
func (w *world) add(text string) { w.did = append(w.did, w.clock.Now().Format("02 15:04")+" "+text) }

func newWorld(t *testing.T, window string, random float64, names func(time.Time) (string, error)) *world {
	t.Helper()
	w := &world{clock: &testClock{start: pollStart, end: 48 * time.Hour, sure: true, random: random}, names: names}
	w.poller = &poller{
		every: time.Hour,
		look:  func(context.Context) (string, error) { return w.names(w.clock.Now()) },
		bring: func(context.Context) (string, error) {
			digest, err := w.names(w.clock.Now())
			w.add("bring " + digest)
			return digest, err
		},
		apply: func(_ context.Context, digest string) error {
			w.add("apply " + digest)
			return nil
		},
		clock: w.clock, log: testLog(w.add),
	}
	if window != "" {
		parsed, err := nodeconfig.ParseWindow(window)
		if err != nil {
			t.Fatal(err)
		}
		w.window = &parsed
	}
	return w
}

// from returns a channel that names a digest after some hours.
func from(hours float64, digest string) func(time.Time) (string, error) {
	return func(now time.Time) (string, error) {
		if now.Sub(pollStart).Hours() < hours {
			return "", nil
		}
		return digest, nil
	}
}

func check(t *testing.T, name string, w *world, want ...string) {
	t.Helper()
	w.run(context.Background())
	if diff := cmp.Diff(want, w.did); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// TestPoller: what is new is brought at once and tried in the window, what moves
// meanwhile is brought too; the clock must be right; nodes ask at different
// moments.
func TestPoller(t *testing.T) {
	check(t, "at once", newWorld(t, "", 0.5, from(0, "new")), "26 20:30 bring new", "26 20:30 apply new")
	check(t, "another moment", newWorld(t, "", 0.25, from(2, "new")), "26 22:09 bring new", "26 22:09 apply new")
	check(t, "nothing new", newWorld(t, "", 0.5, from(99, "new")))
	check(t, "in the window", newWorld(t, "02:00-05:00", 0.5, from(0, "new")), "26 20:30 bring new", "27 02:00 apply new")
	check(t, "it moves before", newWorld(t, "02:00-05:00", 0.5, func(now time.Time) (string, error) {
		if now.Day() == 26 {
			return "new", nil
		}
		return "newer", nil
	}), "26 20:30 bring new", "27 02:00 bring newer", "27 02:00 apply newer")
	check(t, "it is taken back", newWorld(t, "02:00-05:00", 0.5, func(now time.Time) (string, error) {
		if now.Day() == 26 {
			return "new", nil
		}
		return "", nil
	}), "26 20:30 bring new")
	w := newWorld(t, "02:00-05:00", 0.5, from(0, "new"))
	w.clock.sure = false
	check(t, "the clock is wrong", w, "26 20:30 bring new")
}

// TestPollerErrors: an error is logged once, and the next look tries again.
func TestPollerErrors(t *testing.T) {
	check(t, "the registry is away for a day", newWorld(t, "", 0.5, func(now time.Time) (string, error) {
		if now.Sub(pollStart) < 24*time.Hour {
			return "", errors.New("no route to host")
		}
		return "new", nil
	}), "26 20:30 looking for new releases: no route to host", "27 20:30 bring new", "27 20:30 apply new")
	full := newWorld(t, "", 0.5, from(0, "new"))
	apply, fails := full.apply, 2
	full.apply = func(ctx context.Context, digest string) error {
		if fails--; fails >= 0 {
			return errors.New("the volume is full")
		}
		return apply(ctx, digest)
	}
	check(t, "arming fails twice", full, "26 20:30 bring new", "26 20:30 looking for new releases: the volume is "+
		"full", "26 21:30 bring new", "26 22:30 bring new", "26 22:30 apply new")
}

// TestNewPoller: a node that is configured to polls, on a committed boot.
func TestNewPoller(t *testing.T) {
	polls := &nodeconfig.Config{Upgrades: nodeconfig.Upgrades{Poll: nodeconfig.Duration(time.Hour), Window: "02:00-05:00"}}
	committed := node.Boot{Slot: slots.A, Kind: slots.Committed}
	d := node.Defaults{Channel: "registry.example/lab:stable"}
	p, err := newPoller(committed, polls, d, slog.New(slog.DiscardHandler))
	if err != nil || p == nil || p.every != time.Hour || p.window == nil {
		t.Errorf("configured to: %+v %v", p, err)
	}
	for name, c := range map[string]struct {
		b   node.Boot
		cfg *nodeconfig.Config
		d   node.Defaults
	}{
		"not configured": {committed, &nodeconfig.Config{}, d},
		"a trial":        {node.Boot{Slot: slots.B, Kind: slots.Trial}, polls, d},
		"a rescue":       {node.Boot{Slot: slots.B, Kind: slots.Rescue}, polls, d},
		"no card":        {node.Boot{Slot: slots.Net, Kind: slots.Committed}, polls, d},
		"no channel":     {committed, polls, node.Defaults{}},
	} {
		p, err := newPoller(c.b, c.cfg, c.d, slog.New(slog.DiscardHandler))
		if p != nil || (err != nil) != (name == "no channel") {
			t.Errorf("%s: %+v %v", name, p, err)
		}
	}
}

// TestRegistryOptions: who asks, and whom to trust, comes from what the node
// config says of that very registry.
func TestRegistryOptions(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.crt")
	cert, key := certtest.Client(t)
	pair := filepath.Join(t.TempDir(), "key")
	if err := errors.Join(os.WriteFile(ca, cert, 0o600), os.WriteFile(pair, key, 0o600)); err != nil {
		t.Fatal(err)
	}
	cfg := &nodeconfig.Config{Registries: nodeconfig.Registries{Configs: map[string]nodeconfig.Registry{
		"registry.lan:5000": {Auth: nodeconfig.RegistryAuth{Username: "node", Password: "secret"}, TLS: nodeconfig.RegistryTLS{CAFile: ca}},
		"broken.lan":        {TLS: nodeconfig.RegistryTLS{CAFile: "/none"}},
		"mutual.lan":        {TLS: nodeconfig.RegistryTLS{CertFile: ca, KeyFile: pair}},
		"half.lan":          {TLS: nodeconfig.RegistryTLS{CertFile: ca}},
		"nokey.lan":         {TLS: nodeconfig.RegistryTLS{CertFile: ca, KeyFile: ca}},
		"anybody.lan":       {TLS: nodeconfig.RegistryTLS{InsecureSkipVerify: true}},
	}}}
	o, err := registryOptions(cfg, "registry.lan:5000/pi/lab:1.0", false)
	if err != nil || o.CA == nil || o.Keychain == nil {
		t.Fatalf("%+v %v", o, err)
	}
	a, err := o.Keychain.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	if who, err := a.Authorization(); err != nil || who.Username != "node" || who.Password != "secret" {
		t.Errorf("%+v %v", who, err)
	}
	if o, err := registryOptions(cfg, "other.lan/pi/lab:1.0", true); err != nil || o.Keychain != nil || o.CA != nil || !o.PlainHTTP {
		t.Errorf("another registry: %+v %v", o, err)
	}
	if o.SkipVerify || o.Certificate != nil {
		t.Errorf("options that the config does not set: %+v", o)
	}
	if o, err := registryOptions(cfg, "mutual.lan/lab:1.0", false); err != nil || o.Certificate == nil || o.SkipVerify {
		t.Errorf("a certificate of the node's own: %+v %v", o, err)
	}
	if o, err := registryOptions(cfg, "anybody.lan/lab:1.0", false); err != nil || !o.SkipVerify {
		t.Errorf("a registry whose certificate is not checked: %+v %v", o, err)
	}
	for host, want := range map[string]string{"half.lan": "cert_file and key_file go together", "nokey.lan": "cert_file"} {
		if _, err := registryOptions(cfg, host+"/lab:1.0", false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", host, err)
		}
	}
	if _, err := registryOptions(cfg, "broken.lan/lab:1.0", false); err == nil || !strings.Contains(err.Error(), "ca_file") {
		t.Errorf("a missing file: %v", err)
	}
}
