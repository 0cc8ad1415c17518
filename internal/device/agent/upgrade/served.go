package upgrade

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/checks"
	"github.com/pikelet-os/pikelet/internal/device/agent/clock"
	"github.com/pikelet-os/pikelet/internal/device/agent/command"
	"github.com/pikelet-os/pikelet/internal/device/agent/machine"
	"github.com/pikelet-os/pikelet/internal/device/agent/shutdown"
	"github.com/pikelet-os/pikelet/internal/device/agent/sysfs"
	"github.com/pikelet-os/pikelet/internal/device/updater"
	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
)

// served runs on a node without a card after its boot: it reports to its boot
// server whether the release is well here, and restarts when the server has
// another one for the node. Nothing else restarts it: a server that is gone, a network
// that is down and checks that fail later leave it as it is.
type served struct {
	soak, deadline time.Duration
	every          time.Duration      // how often the server is asked
	window         *nodeconfig.Window // nil: any time

	checks func(context.Context) []node.Check
	wanted func(context.Context) (bootapi.Wanted, error)
	report func(context.Context, bootapi.Report) error
	// versions are those of the cluster; nil for a node without a part in one.
	versions func(context.Context) (*skew.Cluster, error)
	restart  func() error
	build    string // that runs

	clock clock.Clock
	log   *slog.Logger
}

// servedEvery is how often the server is asked.
const servedEvery = time.Minute

// run returns when ctx ends or the node restarts.
func (s *served) run(ctx context.Context) {
	list, err := updater.Soak(ctx, s.clock, s.soak, s.deadline, s.checks)
	if err != nil {
		return
	}
	verdict := bootapi.Report{Stage: bootapi.Healthy}
	failed := updater.FailedChecks(list)
	good := failed == ""
	if !good {
		verdict = bootapi.Report{Stage: bootapi.Unhealthy, Error: fmt.Sprintf("after %s: %s", s.deadline, failed)}
		s.log.Error("release of the boot server is unhealthy", "err", verdict.Error)
	}
	logged := "" // the last error
	for reported := false; ; {
		var err error
		cluster, clusterErr := s.versions(ctx)
		if cluster != nil && !cluster.Server && cluster.API.String() != verdict.APIServer {
			verdict.APIServer, reported = cluster.API.String(), false
		}
		if !reported {
			err = s.report(ctx, verdict)
			reported = err == nil
		}
		// A server that was restarted does not know this boot and refuses its
		// report, but still answers which image the node is to run.
		done, lookErr := s.look(ctx, good, cluster, clusterErr)
		if done {
			return
		}
		if err = cmp.Or(err, lookErr); err != nil && ctx.Err() == nil && err.Error() != logged {
			logged = err.Error()
			s.log.Warn("asking the boot server", "err", err)
		}
		if !s.clock.Sleep(ctx, time.Duration((0.5+s.clock.Random())*float64(s.every))) {
			return
		}
	}
}

// look restarts where the server wants another image here, in the window; one
// that is not well goes at once. Neither goes to a Kubernetes that does not go with
// its cluster's.
func (s *served) look(ctx context.Context, good bool, cluster *skew.Cluster, clusterErr error) (done bool, err error) {
	w, err := s.wanted(ctx)
	if err != nil || w.Build == s.build {
		return false, err
	}
	if good { // one that is not cannot ask, and the server knows what the cluster ran
		if err := updater.MayRun(w.Release, w.Kubernetes, cluster, clusterErr); err != nil {
			return false, err
		}
	}
	if good && s.window != nil && !(s.clock.Synchronised() && s.window.Contains(s.clock.Now())) {
		return false, nil
	}
	s.log.Info("restarting into the release of the boot server", "release", w.Release)
	err = s.restart()
	return err == nil, err // where it does not restart, it asks again
}

// newServed returns the served of this boot.
func newServed(b node.Boot, cfg *nodeconfig.Config, d node.Defaults, log *slog.Logger) (*served, error) {
	serial, mac := machine.Serial(), strings.TrimSpace(sysfs.Read("/sys/class/net/"+b.Device+"/address"))
	if b.Server == "" || serial == "" || mac == "" {
		return nil, fmt.Errorf("incomplete boot: boot server %q, serial number %q, MAC address %q", b.Server, serial, mac)
	}
	m := bootapi.Machine{Serial: serial, MAC: mac, Build: b.BuildID}
	s := &served{
		soak: d.Soak, deadline: d.Deadline, every: cmp.Or(time.Duration(cfg.Upgrades.Poll), servedEvery), build: b.BuildID,
		checks:  func(ctx context.Context) []node.Check { return checks.Run(ctx, cfg) },
		restart: func() error { return shutdown.Reboot("") },
		clock:   clock.New(), log: log,
	}
	s.versions = host{cfg: cfg}.Cluster
	if cfg.Upgrades.Window != "" {
		w, err := nodeconfig.ParseWindow(cfg.Upgrades.Window)
		if err != nil {
			return nil, err
		}
		s.window = &w
	}
	s.wanted = func(ctx context.Context) (bootapi.Wanted, error) {
		b, err := askServer(ctx, b.Server, bootapi.Request{Kind: bootapi.Current, Machine: m}, nil)
		if err != nil {
			return bootapi.Wanted{}, err
		}
		return bootapi.DecodeWanted(b)
	}
	s.report = func(ctx context.Context, r bootapi.Report) error {
		r.Release = b.Release
		_, err := askServer(ctx, b.Server, bootapi.Request{Kind: bootapi.Progress, Machine: m}, r.Encode())
		return err
	}
	return s, nil
}

// maxAnswer bounds what a boot server says, in bytes.
const maxAnswer = 64 << 10

// askServer asks the boot server one thing.
func askServer(ctx context.Context, server string, q bootapi.Request, post []byte) ([]byte, error) {
	ctx, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	method := http.MethodGet
	if post != nil {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+server+q.Encode(), bytes.NewReader(post))
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("the boot server answers %s: %s", resp.Status, command.OneLine(string(b)))
	}
	return b, err
}
