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
	askTime  = time.Minute
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
	case known && (r.Resolve == nil || pinned(o.Spec.Image) || underWay(o) || !r.mayAsk(o.UID)):
		return o.Status.Image, nil
	case r.Resolve == nil && pinned(o.Spec.Image):
		return o.Spec.Image, nil
	case r.Resolve == nil:
		return "", fmt.Errorf("%w: image: %q has no digest, and this controller asks no registry", ErrSpec, o.Spec.Image)
	}
	ctx, stop := context.WithTimeout(ctx, askTime)
	defer stop()
	image, err := r.Resolve(ctx, o.Spec.Image)
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

// mayAsk reports whether it is time to ask a registry again.
func (r *Reconciler) mayAsk(rollout types.UID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.Now()
	if last, ok := r.asked[rollout]; ok && now.Sub(last) < askEvery && !now.Before(last) {
		return false
	}
	if r.asked == nil || len(r.asked) >= maxBlocked {
		r.asked = map[types.UID]time.Time{}
	}
	r.asked[rollout] = now
	return true
}
