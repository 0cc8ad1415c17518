package upgrade

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
)

// servedCase is what a node without a card meets after its boot, and what it does.
type servedCase struct {
	well    func(time.Duration) bool // whether checks hold, so long after the boot
	wanted  func(time.Duration) (string, error)
	reports func(time.Duration) error
	restart func(time.Duration) error
	cluster func(time.Duration) (*skew.Cluster, error) // nil: no part in one
	window  string                                     // "" is any time
	sure    bool
	want    []string
}

var errRefused = errors.New("connection refused")

var servedCases = map[string]servedCase{
	"it is well, and nothing is new": {
		well: func(time.Duration) bool { return true },
		want: []string{"1m0s healthy"},
	},
	"it is not, and there is nothing else": {
		well: func(time.Duration) bool { return false },
		want: []string{"10m0s release of the boot server is unhealthy: after 10m0s: fan: it stands still",
			"10m0s unhealthy after 10m0s: fan: it stands still"},
	},
	"it is not, and there is": {
		well:   func(time.Duration) bool { return false },
		wanted: func(time.Duration) (string, error) { return "good", nil },
		window: "02:00-05:00",
		want: []string{"10m0s release of the boot server is unhealthy: after 10m0s: fan: it stands still",
			"10m0s unhealthy after 10m0s: fan: it stands still",
			"10m0s restarting into the release of the boot server release=2", "10m0s restart"},
	},
	"it is well after a while": {
		well: func(d time.Duration) bool { return d >= 5*time.Minute },
		want: []string{"5m58s healthy"},
	},
	"what fails later restarts nothing": {
		well: func(d time.Duration) bool { return d <= 2*time.Minute },
		want: []string{"1m0s healthy"},
	},
	"the channel moves": {
		well: func(time.Duration) bool { return true },
		wanted: func(d time.Duration) (string, error) {
			if d < time.Hour {
				return "runs", nil
			}
			return "next", nil
		},
		want: []string{"1m0s healthy", "1h0m0s restarting into the release of the boot server release=2", "1h0m0s restart"},
	},
	"the channel moves, and there is a window": {
		well:   func(time.Duration) bool { return true },
		wanted: func(time.Duration) (string, error) { return "next", nil },
		window: "02:00-05:00", sure: true,
		want: []string{"1m0s healthy", "6h0m0s restarting into the release of the boot server release=2", "6h0m0s restart"},
	},
	"it does not restart at once": {
		well:   func(time.Duration) bool { return true },
		wanted: func(time.Duration) (string, error) { return "next", nil },
		restart: func(d time.Duration) error {
			if d < 2*time.Minute {
				return errors.New("openrc is busy")
			}
			return nil
		},
		want: []string{"1m0s healthy", "1m0s restarting into the release of the boot server release=2",
			"1m0s asking the boot server: openrc is busy",
			"2m0s restarting into the release of the boot server release=2", "2m0s restart"},
	},
	"the time of day is not known": {
		well:   func(time.Duration) bool { return true },
		wanted: func(time.Duration) (string, error) { return "next", nil },
		window: "02:00-05:00",
		want:   []string{"1m0s healthy"},
	},
	"the server is gone for hours": {
		well: func(time.Duration) bool { return true },
		reports: func(d time.Duration) error {
			if d < 3*time.Hour {
				return errRefused
			}
			return nil
		},
		want: []string{"1m0s asking the boot server: connection refused", "3h0m0s healthy"},
	},
	"the server was started again, and knows nothing of this boot": {
		well:    func(time.Duration) bool { return true },
		reports: func(time.Duration) error { return errRefused },
		wanted: func(d time.Duration) (string, error) {
			if d < time.Hour {
				return "runs", nil
			}
			return "next", nil
		},
		want: []string{"1m0s asking the boot server: connection refused",
			"1h0m0s restarting into the release of the boot server release=2", "1h0m0s restart"},
	},
	"the release is ahead of the API server": {
		well:   func(time.Duration) bool { return true },
		wanted: func(time.Duration) (string, error) { return "next", nil },
		cluster: func(d time.Duration) (*skew.Cluster, error) {
			switch {
			case d < time.Hour:
				return ranBy("v1.34.4"), nil
			case d < 2*time.Hour:
				return nil, errRefused
			}
			return ranBy("v1.35.1"), nil
		},
		want: []string{"1m0s healthy v1.34.4", "1m0s asking the boot server: the Kubernetes of the release does not go with the cluster's: " +
			"release 2 brings Kubernetes v1.35.1: a kubelet must not be newer than the API server: the kubelet would be v1.35.1, " +
			"the API server v1.34.4",
			"1h0m0s asking the boot server: release 2 brings Kubernetes v1.35.1, and which one the cluster runs is not known: connection refused",
			"2h0m0s healthy v1.35.1",
			"2h0m0s restarting into the release of the boot server release=2", "2h0m0s restart"},
	},
	"the server is gone for good": {
		well:   func(time.Duration) bool { return true },
		wanted: func(time.Duration) (string, error) { return "", errRefused },
		want:   []string{"1m0s healthy", "1m0s asking the boot server: connection refused"},
	},
}

// ranBy is the cluster of an agent whose API server is of a version.
func ranBy(version string) *skew.Cluster {
	v, err := skew.Parse(version)
	if err != nil {
		panic(err)
	}
	return &skew.Cluster{API: v}
}

// TestServed: what a node without a card does after its boot.
func TestServed(t *testing.T) {
	start := time.Date(2026, 11, 26, 20, 0, 0, 0, time.UTC)
	for name, c := range servedCases {
		t.Run(name, func(t *testing.T) {
			var log []string
			clock := &testClock{start: start, end: 24 * time.Hour, sure: c.sure, random: 0.5}
			add := func(s string) { log = append(log, clock.at.String()+" "+s) }
			s := &served{
				soak: time.Minute, deadline: 10 * time.Minute, every: time.Minute, build: "runs",
				checks: func(context.Context) []node.Check {
					return []node.Check{{Name: "fan", OK: c.well(clock.at), Says: "it stands still"}}
				},
				wanted: func(context.Context) (bootapi.Wanted, error) {
					w := bootapi.Wanted{Build: "runs", Release: "2", Kubernetes: "v1.35.1"}
					if c.wanted == nil {
						return w, nil
					}
					var err error
					w.Build, err = c.wanted(clock.at)
					return w, err
				},
				report: func(_ context.Context, r bootapi.Report) error {
					if c.reports != nil {
						if err := c.reports(clock.at); err != nil {
							return err
						}
					}
					add(strings.TrimSpace(string(r.Stage) + " " + r.APIServer + r.Error))
					return nil
				},
				versions: func(context.Context) (*skew.Cluster, error) {
					if c.cluster == nil {
						return nil, nil
					}
					return c.cluster(clock.at)
				},
				restart: func() error {
					if c.restart != nil {
						if err := c.restart(clock.at); err != nil {
							return err
						}
					}
					add("restart")
					return nil
				},
				clock: clock, log: testLog(add),
			}
			if c.window != "" {
				w, err := nodeconfig.ParseWindow(c.window)
				if err != nil {
					t.Fatal(err)
				}
				s.window = &w
			}
			ctx, stop := context.WithTimeout(context.Background(), 10*time.Minute) // ends a hang; s has a clock of its own
			defer stop()
			s.run(ctx)
			if diff := cmp.Diff(c.want, log); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
