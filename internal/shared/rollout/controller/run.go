package controller

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/pikelet-os/pikelet/internal/shared/rollout/v1alpha1"
)

// Election is the Lease by which one of several controllers is elected.
const Election = "pikelet-rollout"

// sweepEvery is how often what gone rollouts left is looked for.
const sweepEvery = time.Minute

// awaitEvery is how often credentials are looked for that are not there yet.
const awaitEvery = 2 * time.Second

// Scheme returns the kinds that a controller reads and writes.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	if err := scheme.AddToScheme(s); err != nil {
		return nil, err
	}
	return s, v1alpha1.AddToScheme(s)
}

// Options are what a controller has of the computer that it runs on.
type Options struct {
	Now func() time.Time
	Log *slog.Logger
	// Resolve is that of a Reconciler; it may be nil.
	Resolve func(ctx context.Context, ref string) (string, error)
}

// Main is the command line of pikelet-rollout, which logs to stderr. It returns the
// exit status: 0 for success and help, 1 for failure, 2 for invalid arguments.
func Main(ctx context.Context, args []string, o Options, stderr io.Writer) int {
	// A set of its own: a library adds flags to the command line's.
	f := flag.NewFlagSet("pikelet-rollout", flag.ContinueOnError)
	f.SetOutput(stderr)
	kubeconfig := f.String("kubeconfig", "", "`FILE` with the credentials of an administrator, which is waited for; "+
		"without it, those of the pod this runs in")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case f.NArg() > 0:
		fmt.Fprintf(stderr, "pikelet-rollout: unexpected argument %q\n", f.Arg(0))
		return 2
	}
	o.Log = slog.New(slog.NewTextHandler(stderr, nil))
	err := await(ctx, *kubeconfig, o.Log)
	if ctx.Err() != nil {
		return 0
	}
	var cfg *rest.Config
	if err == nil {
		cfg, err = clientcmd.BuildConfigFromFlags("", *kubeconfig)
	}
	if err == nil {
		err = Run(ctx, cfg, o)
	}
	if err != nil {
		fmt.Fprintln(stderr, "pikelet-rollout:", err)
		return 1
	}
	return 0
}

// await waits for a file, which k3s writes when it first starts, until ctx ends.
func await(ctx context.Context, name string, log *slog.Logger) error {
	for said := false; name != ""; said = true {
		_, err := os.Stat(name)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !said {
			log.Info("waiting for the credentials", "file", name)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(awaitEvery):
		}
	}
	return nil
}

// warnings passes on what is a warning at least, until the controller is to end:
// libraries tell of each of their parts that it starts, and that the lease is lost when
// it is given back.
type warnings struct {
	slog.Handler
	ended <-chan struct{}
}

// Enabled implements slog.Handler.
func (w warnings) Enabled(ctx context.Context, l slog.Level) bool {
	select {
	case <-w.ended:
		return false
	default:
		return l >= slog.LevelWarn && w.Handler.Enabled(ctx, l)
	}
}

// WithAttrs implements slog.Handler.
func (w warnings) WithAttrs(list []slog.Attr) slog.Handler {
	return warnings{w.Handler.WithAttrs(list), w.ended}
}

// WithGroup implements slog.Handler.
func (w warnings) WithGroup(name string) slog.Handler {
	return warnings{w.Handler.WithGroup(name), w.ended}
}

// Run carries out the rollouts of a cluster until ctx ends or the lease is lost. Of
// several processes one works, elected by a Lease in kube-system.
func Run(ctx context.Context, cfg *rest.Config, o Options) error {
	s, err := Scheme()
	if err != nil {
		return err
	}
	libraries := warnings{o.Log.Handler(), ctx.Done()}
	klog.SetSlogLogger(slog.New(libraries)) // of client-go's election
	ctrl.SetLogger(logr.FromSlogHandler(libraries))
	// Less often than by default: each renewal is written to a card, and each attempt
	// is work for an API server that is just starting on a Pi.
	leaseTime, renewTime, retryTime := 30*time.Second, 20*time.Second, 5*time.Second
	m, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme: s, Logger: logr.FromSlogHandler(libraries), Metrics: server.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		LeaderElection: true, LeaderElectionNamespace: Namespace, LeaderElectionID: Election, LeaderElectionReleaseOnCancel: true,
		LeaseDuration: &leaseTime, RenewDeadline: &renewTime, RetryPeriod: &retryTime,
	})
	if err != nil {
		return err
	}
	r := &Reconciler{Client: m.GetClient(), Live: m.GetAPIReader(), Now: o.Now, Log: o.Log, Resolve: o.Resolve}
	if err := r.SetUp(m); err != nil {
		return err
	}
	if err := m.Add(manager.RunnableFunc(r.sweep)); err != nil {
		return err
	}
	return m.Start(ctx)
}

// sweep sweeps until ctx ends.
func (r *Reconciler) sweep(ctx context.Context) error {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		if err := r.Sweep(ctx); err != nil && ctx.Err() == nil {
			r.Log.Warn("looking for what rollouts left behind", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}
