package controller

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/v1alpha1"
)

// How often a registry is asked what a tag names, and how long it may take.
const (
	askEvery = 5 * time.Minute
	askTime  = 20 * time.Second // other rollouts wait meanwhile
)

// imageOf returns the image that a rollout is known to bring; "" is not known yet.
func imageOf(o *v1alpha1.Rollout) string {
	switch {
	case o.Status.Named == o.Spec.Image && o.Status.Image != "":
		return o.Status.Image
	case pinned(o.Spec.Image):
		return o.Spec.Image
	}
	return ""
}

// pinned reports whether a reference has a digest.
func pinned(ref string) bool { return strings.Contains(ref, "@") }

// image returns the image that a rollout brings, with the digest of its manifest. A
// registry is asked for what is not known yet, and again for a tag while no node is
// under way. Where it does not answer, what is known stays.
func (r *Reconciler) image(ctx context.Context, o *v1alpha1.Rollout) (string, error) {
	known := o.Status.Named == o.Spec.Image && o.Status.Image != ""
	switch {
	case known && (r.Resolve == nil || pinned(o.Spec.Image) || underWay(o)):
		return o.Status.Image, nil
	case r.Resolve == nil && pinned(o.Spec.Image):
		return o.Spec.Image, nil
	case r.Resolve == nil:
		return "", fmt.Errorf("%w: image: %q has no digest, and this controller asks no registry", ErrSpec, o.Spec.Image)
	}
	image, err := r.ask(ctx, o)
	switch {
	case err == nil:
		return image, nil
	case known:
		r.Log.Warn("asking which image a tag names", "rollout", o.Name, "image", o.Spec.Image, "err", err)
		return o.Status.Image, nil
	}
	return "", fmt.Errorf("asking which image %s is: %w", o.Spec.Image, err)
}

// underWay reports whether nodes of a rollout are.
func underWay(o *v1alpha1.Rollout) bool {
	for _, t := range o.Status.Turns {
		if rollout.Step(t.Step) != rollout.Failed {
			return true
		}
	}
	return false
}

// answer is what a registry said of a reference, and when.
type answer struct {
	ref, image string
	err        error
	at         time.Time
}

// ask asks the registry, or returns what it said a moment ago: Nodes change often, and
// each change has all rollouts looked at.
func (r *Reconciler) ask(ctx context.Context, o *v1alpha1.Rollout) (string, error) {
	now := r.Now()
	r.mu.Lock()
	last := r.asked[o.UID]
	r.mu.Unlock()
	every := askEvery
	if last.err != nil {
		every = idleEvery
	}
	if age := now.Sub(last.at); last.ref == o.Spec.Image && age >= 0 && age < every {
		return last.image, last.err
	}
	ctx, stop := context.WithTimeout(ctx, askTime)
	defer stop()
	image, err := r.Resolve(ctx, o.Spec.Image)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked == nil || len(r.asked) >= maxBlocked {
		r.asked = map[types.UID]answer{}
	}
	r.asked[o.UID] = answer{o.Spec.Image, image, err, r.Now()}
	return image, err
}
