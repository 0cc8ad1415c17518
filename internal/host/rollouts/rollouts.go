// Package rollouts is a person's side of the rollouts of a cluster: it looks at them,
// stops them and has them go on, says what one would do, and carries one out where no
// controller runs.
package rollouts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/controller"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/v1alpha1"
)

// timeout bounds one request to an API server: people wait for the answer.
const timeout = 30 * time.Second

var (
	// ErrUndefined is returned by a cluster that does not know rollouts.
	ErrUndefined = errors.New("the cluster does not know rollouts")
	// ErrNone is returned where there is no rollout of a name, or none at all.
	ErrNone = errors.New("no such rollout")
	// ErrNoneBefore is returned for a rollout that completed no other image.
	ErrNoneBefore = errors.New("no image before this one is known")
)

// Connect returns a client of the cluster that a kubeconfig names, and the address
// and credentials of its API server. An empty name is that of kubectl's own: what
// KUBECONFIG says, or the file .kube/config.
func Connect(kubeconfig string) (client.Client, *rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		err = errors.New("no cluster is configured")
	}
	if err != nil {
		return nil, nil, hint.With(fmt.Errorf("reading the kubeconfig: %w", err),
			"name one with --kubeconfig; k3s writes /etc/rancher/k3s/k3s.yaml on its servers")
	}
	s, err := controller.Scheme()
	if err != nil {
		return nil, nil, err
	}
	cfg.Timeout = timeout
	c, err := client.New(cfg, client.Options{Scheme: s})
	return c, cfg, err
}

// explain gives an error of the API server the advice that goes with it.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case meta.IsNoMatchError(err):
		return hint.With(ErrUndefined, "add the overlay rollout to the image of its servers, or use pikelet upgrade --kubeconfig")
	case apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
		return hint.With(err, "use an administrator's kubeconfig")
	}
	return err
}

// List returns the rollouts of a cluster, by name. The error is ErrUndefined where the
// cluster does not know them.
func List(ctx context.Context, c client.Reader) ([]v1alpha1.Rollout, error) {
	var list v1alpha1.RolloutList
	if err := c.List(ctx, &list); err != nil {
		return nil, explain(err)
	}
	slices.SortFunc(list.Items, func(a, b v1alpha1.Rollout) int { return strings.Compare(a.Name, b.Name) })
	return list.Items, nil
}

// Find returns a rollout, or with an empty name the only one there is. The errors are
// ErrNone and ErrUndefined.
func Find(ctx context.Context, c client.Reader, name string) (*v1alpha1.Rollout, error) {
	list, err := List(ctx, c)
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range list {
		if list[i].Name == name || name == "" && len(list) == 1 {
			return &list[i], nil
		}
		names = append(names, list[i].Name)
	}
	switch {
	case len(list) == 0:
		return nil, hint.With(fmt.Errorf("%w: the cluster has none", ErrNone), "kubectl apply one, or use pikelet upgrade --kubeconfig")
	case name == "":
		return nil, fmt.Errorf("%w: which of %s?", ErrNone, strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("%w: %q; there are %s", ErrNone, name, strings.Join(names, ", "))
}

// Pause has a rollout begin no further node's turn, or go on. It reports whether the
// rollout was changed.
func Pause(ctx context.Context, c client.Client, name string, pause bool) (*v1alpha1.Rollout, bool, error) {
	return change(ctx, c, name, func(r *v1alpha1.Rollout) error {
		r.Spec.Pause = pause
		return nil
	})
}

// Undo has a rollout bring back the image that all nodes ran before. The error is
// ErrNoneBefore where none is known.
func Undo(ctx context.Context, c client.Client, name string) (*v1alpha1.Rollout, error) {
	r, _, err := change(ctx, c, name, func(r *v1alpha1.Rollout) error {
		s := rollout.Status{Completed: r.Status.Completed, Previous: r.Status.Previous}
		before := s.Before(cmp.Or(r.Status.Image, r.Spec.Image))
		if before == "" {
			return hint.Withf(fmt.Errorf("rollout %s: %w", r.Name, ErrNoneBefore), "set spec.image to the image that the nodes shall run")
		}
		r.Spec.Image, r.Spec.Pause = before, false
		return nil
	})
	return r, err
}

// change changes the spec of a rollout, of the version that was read. A controller
// writes the status of the same object all the time: what was read is then read again.
func change(ctx context.Context, c client.Client, name string, edit func(*v1alpha1.Rollout) error) (*v1alpha1.Rollout, bool, error) {
	var r *v1alpha1.Rollout
	changed := false
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() (err error) {
		if r, err = Find(ctx, c, name); err != nil {
			return err
		}
		was := r.DeepCopy()
		if err := edit(r); err != nil {
			return err
		}
		if r.Spec.Image == was.Spec.Image && r.Spec.Pause == was.Spec.Pause {
			return nil
		}
		err = c.Patch(ctx, r, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{}), client.FieldOwner("pikelet"))
		changed = err == nil
		return err
	})
	if err != nil {
		return nil, false, explain(err)
	}
	return r, changed, nil
}
