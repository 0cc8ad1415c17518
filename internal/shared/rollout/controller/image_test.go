package controller

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/v1alpha1"
)

// TestImage: which image a rollout brings, and when a registry is asked for it.
func TestImage(t *testing.T) {
	const (
		channel = "registry.example/lab:stable"
		index   = "registry.example/lab@sha256:1"
		one     = "registry.example/lab@sha256:2"
		two     = "registry.example/lab@sha256:3"
	)
	known := v1alpha1.RolloutStatus{Named: channel, Image: one}
	busy := known
	busy.Turns = []v1alpha1.Turn{{Node: "attic", Step: string(rollout.Evict)}}
	halted := known
	halted.Turns = []v1alpha1.Turn{{Node: "attic", Step: string(rollout.Failed)}}
	away := errors.New("no route to host")
	for name, c := range map[string]struct {
		spec   string
		status v1alpha1.RolloutStatus
		names  string // what the registry says; "" has it away
		ago    time.Duration
		want   string
		asked  bool
		said   string // what the registry said that long ago
		failed error
	}{
		"a channel":                        {channel, v1alpha1.RolloutStatus{}, one, time.Hour, one, true, one, nil},
		"an index":                         {index, v1alpha1.RolloutStatus{}, one, time.Hour, one, true, one, nil},
		"a channel that moved":             {channel, known, two, time.Hour, two, true, one, nil},
		"asked a minute ago":               {channel, known, two, time.Minute, one, false, one, nil},
		"nodes are under way":              {channel, busy, two, time.Hour, one, false, one, nil},
		"halted, and there is another one": {channel, halted, two, time.Hour, two, true, one, nil},
		"a digest stays":                   {index, v1alpha1.RolloutStatus{Named: index, Image: one}, two, time.Hour, one, false, one, nil},
		"another channel":                  {"registry.example/lab:edge", known, two, time.Minute, two, true, one, nil},
		"the registry is away":             {channel, known, "", time.Hour, one, true, one, nil},
		"it always was":                    {channel, v1alpha1.RolloutStatus{}, "", time.Hour, "", true, one, nil},
		"it was away a moment ago":         {channel, v1alpha1.RolloutStatus{}, two, time.Second, "", false, "", away},
		"it was away a while ago":          {channel, v1alpha1.RolloutStatus{}, two, 2 * time.Minute, two, true, "", away},
	} {
		t.Run(name, func(t *testing.T) {
			now, asked := time.Unix(1e9, 0), false
			r := &Reconciler{Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)}
			o := &v1alpha1.Rollout{Spec: v1alpha1.RolloutSpec{Image: c.spec}, Status: c.status}
			r.asked = map[types.UID]answer{o.UID: {channel, c.said, c.failed, now.Add(-c.ago)}}
			r.Resolve = func(context.Context, string) (string, error) {
				if asked = true; c.names == "" {
					return "", away
				}
				return c.names, nil
			}
			got, err := r.image(t.Context(), o)
			if got != c.want || asked != c.asked || (err != nil) != (c.want == "") || err != nil && !errors.Is(err, away) {
				t.Errorf("got %q, %v, asked %v; want %q, %v", got, err, asked, c.want, c.asked)
			}
		})
	}
}

// TestImageWithoutRegistry: a controller that asks no registry takes digests as they
// are, and no tags.
func TestImageWithoutRegistry(t *testing.T) {
	r := &Reconciler{Now: time.Now}
	o := &v1alpha1.Rollout{Spec: v1alpha1.RolloutSpec{Image: "registry.example/lab@sha256:1"}}
	if got, err := r.image(t.Context(), o); err != nil || got != o.Spec.Image {
		t.Errorf("got %q, %v", got, err)
	}
	o.Spec.Image = "registry.example/lab:stable"
	_, err := r.image(t.Context(), o)
	if !errors.Is(err, ErrSpec) || !strings.Contains(err.Error(), "has no digest") {
		t.Errorf("got %v, want ErrSpec", err)
	}
}
