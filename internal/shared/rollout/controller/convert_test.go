package controller

import (
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/v1alpha1"
)

// TestDecode: what of a spec is read, and that a rollout with an invalid one is
// paused, with the field and what is wanted.
func TestDecode(t *testing.T) {
	good := v1alpha1.RolloutSpec{Image: "registry.example/lab@sha256:1"}
	nodes := []rollout.Node{{Name: "cellar", Server: true, Image: &rollout.Image{}}, {Name: "shed"}}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		nodes = append(nodes, rollout.Node{Name: name, Image: &rollout.Image{}})
	}
	for name, c := range map[string]struct {
		change func(*v1alpha1.RolloutSpec)
		want   string // the error; "" for none
		most   int
	}{
		"defaults": {func(*v1alpha1.RolloutSpec) {}, "", 1},
		"percent": {func(s *v1alpha1.RolloutSpec) {
			most := intstr.FromString("50%")
			s.MaxUnavailable = &most
		}, "", 2},
		"little of few": {func(s *v1alpha1.RolloutSpec) {
			most := intstr.FromString("1%")
			s.MaxUnavailable = &most
		}, "", 1},
		"no digest": {func(s *v1alpha1.RolloutSpec) { s.Image = "registry.example/lab:1.0" }, "image: got", 0},
		"time zone": {func(s *v1alpha1.RolloutSpec) {
			s.Windows = []v1alpha1.Window{{Time: "02:00-05:00", TimeZone: "Nowhere/Town"}}
		}, "windows[0]: timeZone: ", 0},
		"selector": {func(s *v1alpha1.RolloutSpec) {
			s.NodeSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "room", Operator: "Near"}}}
		}, "nodeSelector: ", 0},
	} {
		o := &v1alpha1.Rollout{Spec: good}
		c.change(&o.Spec)
		r, err := Decode(o, o.Spec.Image, nodes)
		if (err == nil) != (c.want == "") || err != nil && (!errors.Is(err, ErrSpec) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if r == nil || r.Spec.Paused != (err != nil) || err == nil && r.Spec.MaxUnavailable != c.most {
			t.Errorf("%s: got %+v", name, r)
		}
	}
}
