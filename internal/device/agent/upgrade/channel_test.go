package upgrade

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/certtest"
)

// TestPoller: what is new is brought at once and tried in the window, what
// moves meanwhile is brought too; errors are told once; the clock must be
// right; nodes ask at different moments.
func TestPoller(t *testing.T) {
	start := time.Date(2026, 11, 26, 20, 0, 0, 0, time.UTC)
	type world struct {
		*poller
		said  []string
		clock *testClock
		names func(time.Time) (string, error)
	}
	at := func(w *world) string { return w.clock.Now().Format("02 15:04") }
	newWorld := func(window string, random float64, names func(time.Time) (string, error)) *world {
		w := &world{clock: &testClock{start: start, end: 48 * time.Hour, sure: true, random: random}, names: names}
		w.poller = &poller{
			every: time.Hour,
			look:  func(context.Context) (string, error) { return w.names(w.clock.Now()) },
			bring: func(context.Context) (string, error) {
				digest, err := w.names(w.clock.Now())
				w.said = append(w.said, at(w)+" bring "+digest)
				return digest, err
			},
			apply: func(_ context.Context, digest string) error {
				w.said = append(w.said, at(w)+" apply "+digest)
				return nil
			},
			clock: w.clock,
		}
		w.poller.log = testLog(func(s string) { w.said = append(w.said, at(w)+" "+s) })
		if window != "" {
			parsed, err := nodeconfig.ParseWindow(window)
			if err != nil {
				t.Fatal(err)
			}
			w.window = &parsed
		}
		return w
	}
	from := func(hours float64, digest string) func(time.Time) (string, error) {
		return func(now time.Time) (string, error) {
			if now.Sub(start).Hours() < hours {
				return "", nil
			}
			return digest, nil
		}
	}
	check := func(what string, w *world, want ...string) {
		t.Helper()
		w.run(context.Background())
		if fmt.Sprint(w.said) != fmt.Sprint(want) {
			t.Errorf("%s: %q, want %q", what, w.said, want)
		}
	}
	check("at once", newWorld("", 0.5, from(0, "new")), "26 20:30 bring new", "26 20:30 apply new")
	check("another moment", newWorld("", 0.25, from(2, "new")), "26 22:09 bring new", "26 22:09 apply new")
	check("nothing new", newWorld("", 0.5, from(99, "new")))
	check("in the window", newWorld("02:00-05:00", 0.5, from(0, "new")), "26 20:30 bring new", "27 02:00 apply new")
	check("it moves before", newWorld("02:00-05:00", 0.5, func(now time.Time) (string, error) {
		if now.Day() == 26 {
			return "new", nil
		}
		return "newer", nil
	}), "26 20:30 bring new", "27 02:00 bring newer", "27 02:00 apply newer")
	check("it is taken back", newWorld("02:00-05:00", 0.5, func(now time.Time) (string, error) {
		if now.Day() == 26 {
			return "new", nil
		}
		return "", nil
	}), "26 20:30 bring new")
	check("the registry is away for a day", newWorld("", 0.5, func(now time.Time) (string, error) {
		if now.Sub(start) < 24*time.Hour {
			return "", errors.New("no route to host")
		}
		return "new", nil
	}), "26 20:30 looking for new releases: no route to host", "27 20:30 bring new", "27 20:30 apply new")
	full := newWorld("", 0.5, from(0, "new"))
	apply, fails := full.apply, 2
	full.apply = func(ctx context.Context, digest string) error {
		if fails--; fails >= 0 {
			return errors.New("the volume is full")
		}
		return apply(ctx, digest)
	}
	check("arming fails twice", full, "26 20:30 bring new", "26 20:30 looking for new releases: the volume is "+
		"full", "26 21:30 bring new", "26 22:30 bring new", "26 22:30 apply new")
	w := newWorld("02:00-05:00", 0.5, from(0, "new"))
	w.clock.sure = false
	check("the clock is wrong", w, "26 20:30 bring new")
}

// TestWhoPolls: a node that is told to, on a committed boot.
func TestWhoPolls(t *testing.T) {
	told := &nodeconfig.Config{Upgrades: nodeconfig.Upgrades{Poll: nodeconfig.Duration(time.Hour), Window: "02:00-05:00"}}
	committed := node.Boot{Slot: slots.A, Kind: slots.Committed}
	d := node.Defaults{Channel: "registry.example/lab:stable"}
	if p, err := newPoller(committed, told, d, slog.New(slog.DiscardHandler)); err != nil || p == nil || p.every != time.Hour || p.window == nil {
		t.Errorf("told to: %+v %v", p, err)
	}
	for what, c := range map[string]struct {
		b   node.Boot
		cfg *nodeconfig.Config
		d   node.Defaults
	}{
		"not told":   {committed, &nodeconfig.Config{}, d},
		"a trial":    {node.Boot{Slot: slots.B, Kind: slots.Trial}, told, d},
		"a rescue":   {node.Boot{Slot: slots.B, Kind: slots.Rescue}, told, d},
		"no card":    {node.Boot{Slot: slots.Net, Kind: slots.Committed}, told, d},
		"no channel": {committed, told, node.Defaults{}},
	} {
		p, err := newPoller(c.b, c.cfg, c.d, slog.New(slog.DiscardHandler))
		if p != nil || (err != nil) != (what == "no channel") {
			t.Errorf("%s: %+v %v", what, p, err)
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
		t.Errorf("what nobody said: %+v", o)
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
