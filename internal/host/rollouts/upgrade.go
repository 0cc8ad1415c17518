package rollouts

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/controller"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/v1alpha1"
	"github.com/pikelet-os/pikelet/overlays"
)

// poll is how often a rollout is looked at that is being carried out.
const poll = time.Second

var (
	// ErrHalted is returned for a rollout that a node halted.
	ErrHalted = errors.New("the rollout is halted")
	// ErrOthers is returned for a rollout that was not made by Upgrade: what keeps it,
	// such as git, would have it back, and windows and the like are somebody's decision.
	ErrOthers = errors.New("the rollout was not made by an upgrade from a computer")
	// ErrStopped is returned for a rollout that was paused before its end.
	ErrStopped = errors.New("the rollout was stopped before its end")
)

// The label of rollouts that Upgrade made
// (https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/).
const (
	managedBy = "app.kubernetes.io/managed-by"
	ourselves = "pikelet-upgrade"
)

// Definition returns the CustomResourceDefinition of rollouts, which the overlay
// rollout brings to a cluster.
func Definition() (*unstructured.Unstructured, error) {
	o, err := overlays.Find("rollout", "", nil)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{}
	return u, yaml.Unmarshal(o.Manifests["pikelet.dev_rollouts.yaml"], &u.Object)
}

// define has a cluster know rollouts, if it does not.
func (d Desk) define(ctx context.Context) error {
	for made := false; ; {
		err := d.Client.List(ctx, &v1alpha1.RolloutList{})
		if !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) {
			return explain(err)
		}
		if !made {
			definition, err := Definition()
			if err != nil {
				return err
			}
			if err := d.Client.Create(ctx, definition); err != nil && !apierrors.IsAlreadyExists(err) {
				return explain(fmt.Errorf("having the cluster know rollouts: %w", err))
			}
			d.Log.Info("the cluster did not know rollouts: defined them", "crd", definition.GetName())
			made = true
		}
		if err := wait(ctx); err != nil {
			return err
		}
	}
}

func wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(poll):
		return nil
	}
}

// Desk is a computer that carries out rollouts of a cluster.
type Desk struct {
	Client client.Client
	Config *rest.Config // what Client is connected with
	Now    func() time.Time
	Log    *slog.Logger
	// Resolve is that of a controller.Reconciler; it may be nil.
	Resolve func(ctx context.Context, ref string) (string, error)
	// Shown is given a rollout whenever its status has changed.
	Shown func(*v1alpha1.Rollout)
}

// Upgrade carries out a rollout from this computer: by the same controller that runs
// on servers, elected by the same Lease, so that one of these does the work where
// there are any. The rollout is made, or brought to the spec of want.
//
// When ctx ends, no further turn begins; those under way come to their end. The
// errors are ErrHalted, ErrStopped, ErrOthers, and those of the API server.
func (d Desk) Upgrade(ctx context.Context, want *v1alpha1.Rollout) error {
	if err := d.define(ctx); err != nil {
		return err
	}
	r, err := place(ctx, d.Client, want)
	if err != nil {
		return err
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// A cluster of one server is away while that restarts, and the Lease is lost.
		for work.Err() == nil {
			if err := controller.Run(work, d.Config, controller.Options{Now: d.Now, Log: d.Log, Resolve: d.Resolve}); err != nil {
				d.Log.Debug("the controller ended, and is started again", "err", err)
			}
			_ = wait(work)
		}
	}()
	err = d.follow(ctx, r)
	stop()
	<-ended // gives the Lease back
	return err
}

// place makes a rollout, or brings the one of its name to its spec. The error is
// ErrOthers for one that something else made.
func place(ctx context.Context, c client.Client, want *v1alpha1.Rollout) (*v1alpha1.Rollout, error) {
	var r *v1alpha1.Rollout
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() (err error) {
		r, err = tryPlace(ctx, c, want)
		return err
	})
	return r, explain(err)
}

// tryPlace is place, and returns a conflict where the rollout was changed meanwhile.
func tryPlace(ctx context.Context, c client.Client, want *v1alpha1.Rollout) (*v1alpha1.Rollout, error) {
	have := &v1alpha1.Rollout{}
	err := c.Get(ctx, client.ObjectKeyFromObject(want), have)
	if apierrors.IsNotFound(err) {
		r := want.DeepCopy()
		r.Labels = map[string]string{managedBy: ourselves}
		return r, c.Create(ctx, r)
	}
	if err != nil {
		return nil, err
	}
	if have.DeletionTimestamp != nil {
		return nil, hint.With(fmt.Errorf("rollout %s is being deleted", have.Name), "wait until it is gone, which takes a controller")
	}
	if have.Labels[managedBy] != ourselves {
		return nil, hint.With(fmt.Errorf("rollout %s: %w", have.Name, ErrOthers),
			"change its image where it is kept, or name another one with --name")
	}
	have.Spec = want.Spec
	return have, c.Update(ctx, have)
}

// follow looks at a rollout until it has come to its end.
func (d Desk) follow(ctx context.Context, r *v1alpha1.Rollout) error {
	name, last := client.ObjectKeyFromObject(r), ""
	own := context.WithoutCancel(ctx)
	for stopped := false; ; {
		if ctx.Err() != nil && !stopped {
			if _, _, err := Pause(own, d.Client, name.Name, true); err != nil {
				return err
			}
			stopped = true
		}
		now := &v1alpha1.Rollout{}
		switch err := d.Client.Get(own, name, now); {
		case apierrors.IsNotFound(err):
			return fmt.Errorf("rollout %s: %w: it was deleted", name.Name, ErrStopped)
		case err != nil: // a server of one's own restarts: its API is away for a while
		default:
			if now.ResourceVersion != last {
				last = now.ResourceVersion
				d.Shown(now)
			}
			if done, err := outcome(own, d.Client, now); done {
				return err
			}
		}
		time.Sleep(poll)
	}
}

// outcome reports whether a rollout has come to its end: no turn is under way, and no
// node is unschedulable for it.
func outcome(ctx context.Context, c client.Client, r *v1alpha1.Rollout) (done bool, err error) {
	if r.Status.ObservedGeneration != r.Generation {
		return false, nil
	}
	state := rollout.State(r.Status.State)
	if state != rollout.Complete && state != rollout.Halted && state != rollout.Paused {
		return false, nil
	}
	for _, t := range r.Status.Turns {
		if rollout.Step(t.Step) != rollout.Failed {
			return false, nil
		}
	}
	var nodes corev1.NodeList
	if err := c.List(ctx, &nodes); err != nil {
		return false, nil
	}
	for _, n := range nodes.Items {
		if n.Annotations[rollout.CordonKey] == string(r.UID) {
			return false, nil
		}
	}
	switch state {
	case rollout.Halted:
		return true, fmt.Errorf("%w: %s", ErrHalted, r.Status.Reason)
	case rollout.Paused:
		return true, hint.Withf(fmt.Errorf("%w: %d of %d nodes run the release", ErrStopped, r.Status.Done, r.Status.Total),
			"run the same command again to go on")
	}
	return true, nil
}

// New returns a rollout that is not in a cluster yet.
func New(name string, spec v1alpha1.RolloutSpec) *v1alpha1.Rollout {
	return &v1alpha1.Rollout{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
}
