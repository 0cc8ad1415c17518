package controller

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/v1alpha1"
)

// Defaults of fields that are not set. The resource's definition has those of its
// top level too; nested ones apply only where what holds them is set.
const (
	defaultSoak     = 2 * time.Minute
	defaultDeadline = 30 * time.Minute
	defaultFetch    = 2 * time.Hour
	defaultDrain    = 15 * time.Minute
)

// ErrSpec is returned for a spec that the API server let pass and that cannot be
// carried out.
var ErrSpec = errors.New("invalid rollout")

// Decode returns a rollout as decisions take it, with the image that its spec names. Of nodes, those that it selects are
// counted, for a maxUnavailable in percent. Where the error is ErrSpec the rollout is
// paused, so that what it began before comes to its end.
func Decode(o *v1alpha1.Rollout, image string, nodes []rollout.Node) (*rollout.Rollout, error) {
	r := &rollout.Rollout{
		Name: o.Name, UID: string(o.UID), Created: o.CreationTimestamp.Time, Generation: o.Generation, Deleted: o.DeletionTimestamp != nil,
		Spec: rollout.Spec{
			Image: image, Named: o.Spec.Image,
			Soak: cmp.Or(o.Spec.Soak.Duration, defaultSoak), Deadline: cmp.Or(o.Spec.Deadline.Duration, defaultDeadline),
			Fetch: cmp.Or(o.Spec.FetchTimeout.Duration, defaultFetch), Paused: o.Spec.Pause, Again: o.Spec.Again,
			Drain: rollout.Drain{
				Timeout: cmp.Or(o.Spec.Drain.Timeout.Duration, defaultDrain), Off: o.Spec.Drain.Off, Force: o.Spec.Drain.Force,
				LocalData: o.Spec.Drain.DeleteEmptyDirData,
			},
		},
		Status: decodeStatus(o.Status),
	}
	err := decodeSpec(o.Spec, r, nodes)
	r.Spec.Paused = r.Spec.Paused || err != nil
	return r, err
}

// decodeSpec reads the fields of a spec that may be invalid. The error is ErrSpec.
func decodeSpec(spec v1alpha1.RolloutSpec, r *rollout.Rollout, nodes []rollout.Node) error {
	_, digest, ok := strings.Cut(r.Spec.Image, "@")
	if !ok {
		return fmt.Errorf("%w: image: got %q, want a reference with a digest", ErrSpec, r.Spec.Image)
	}
	r.Spec.Digest = digest
	if spec.NodeSelector != nil {
		s, err := metav1.LabelSelectorAsSelector(spec.NodeSelector)
		if err != nil {
			return fmt.Errorf("%w: nodeSelector: %w", ErrSpec, err)
		}
		r.Spec.Selects = func(set map[string]string) bool { return s.Matches(labels.Set(set)) }
	}
	for i, w := range spec.Windows {
		window, err := decodeWindow(w)
		if err != nil {
			return fmt.Errorf("%w: windows[%d]: %w", ErrSpec, i, err)
		}
		r.Spec.Windows = append(r.Spec.Windows, window)
	}
	r.Spec.MaxUnavailable = 1
	if most := spec.MaxUnavailable; most != nil {
		agents := 0
		for i := range nodes {
			if !nodes[i].Server && r.Selected(&nodes[i]) {
				agents++
			}
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(most, agents, false)
		if err != nil {
			return fmt.Errorf("%w: maxUnavailable: %w", ErrSpec, err)
		}
		r.Spec.MaxUnavailable = max(n, 1)
	}
	return nil
}

// days are those of the API.
var days = map[v1alpha1.Day]time.Weekday{
	"Sunday": time.Sunday, "Monday": time.Monday, "Tuesday": time.Tuesday, "Wednesday": time.Wednesday, "Thursday": time.Thursday,
	"Friday": time.Friday, "Saturday": time.Saturday,
}

func decodeWindow(w v1alpha1.Window) (rollout.Window, error) {
	day, err := nodeconfig.ParseWindow(w.Time)
	if err != nil {
		return rollout.Window{}, fmt.Errorf("time: %w", err)
	}
	zone, err := time.LoadLocation(w.TimeZone)
	if err != nil {
		return rollout.Window{}, fmt.Errorf("timeZone: %w", err)
	}
	to := rollout.Window{Day: day, Location: zone}
	for _, d := range w.Days {
		weekday, ok := days[d]
		if !ok {
			return rollout.Window{}, fmt.Errorf("days: got %q, want a day such as Sunday", d)
		}
		to.Days = append(to.Days, weekday)
	}
	return to, nil
}

func decodeStatus(s v1alpha1.RolloutStatus) rollout.Status {
	to := rollout.Status{
		Image: s.Image, Named: s.Named,
		State: rollout.State(s.State), Reason: s.Reason, Observed: s.ObservedGeneration, Began: s.Began, Returned: s.Returned,
		Done: s.Done, Total: s.Total, Completed: s.Completed, Previous: s.Previous, Slowest: s.Slowest.Duration,
	}
	for _, t := range s.Turns {
		to.Turns = append(to.Turns, rollout.Turn{Node: t.Node, UID: t.UID, Step: rollout.Step(t.Step), Since: t.Since.Time, Reason: t.Reason,
			Request: t.Request, Image: t.Image, Digest: t.Digest})
	}
	return to
}

func encodeStatus(s rollout.Status) v1alpha1.RolloutStatus {
	to := v1alpha1.RolloutStatus{
		Image: s.Image, Named: s.Named,
		State: string(s.State), Reason: s.Reason, ObservedGeneration: s.Observed, Began: s.Began, Returned: s.Returned,
		Done: s.Done, Total: s.Total, Completed: s.Completed, Previous: s.Previous, Slowest: metav1.Duration{Duration: s.Slowest},
	}
	for _, t := range s.Turns {
		to.Turns = append(to.Turns, v1alpha1.Turn{Node: t.Node, UID: t.UID, Step: string(t.Step), Since: metav1.NewMicroTime(t.Since),
			Reason: t.Reason, Request: t.Request, Image: t.Image, Digest: t.Digest})
	}
	return to
}

// controlPlane is the label of nodes that have an API server
// (https://kubernetes.io/docs/reference/labels-annotations-taints/).
const controlPlane = "node-role.kubernetes.io/control-plane"

// voter is the condition that k3s has on members of etcd
// (k3s-io/k3s, pkg/etcd/etcd.go).
const voter corev1.NodeConditionType = "EtcdIsVoter"

// DecodeNode returns a node as decisions take it. Annotations that cannot be read
// count as none: a node that has no image to show has no part in a rollout.
func DecodeNode(n *corev1.Node) rollout.Node {
	_, server := n.Labels[controlPlane]
	to := rollout.Node{
		Name: n.Name, UID: string(n.UID), Version: n.ResourceVersion, Labels: n.Labels, Server: server,
		Unschedulable: n.Spec.Unschedulable, CordonedBy: n.Annotations[rollout.CordonKey],
	}
	to.Request, _ = rollout.DecodeRequest(n.Annotations[rollout.RequestKey])
	to.Answer, _ = rollout.DecodeAnswer(n.Annotations[rollout.AnswerKey])
	to.Image, _ = rollout.DecodeImage(n.Annotations[rollout.ImageKey])
	for _, c := range n.Status.Conditions {
		switch c.Type {
		case corev1.NodeReady:
			to.Ready = c.Status == corev1.ConditionTrue
		case voter:
			to.Learner = c.Status != corev1.ConditionTrue
		}
	}
	return to
}

// DecodePod returns a pod as decisions take it.
func DecodePod(p *corev1.Pod, blocked map[types.UID]string) rollout.Pod {
	to := rollout.Pod{
		Namespace: p.Namespace, Name: p.Name, UID: string(p.UID), Terminating: p.DeletionTimestamp != nil, Blocked: blocked[p.UID],
		Finished: p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed,
	}
	_, to.Static = p.Annotations[corev1.MirrorPodAnnotationKey]
	if owner := metav1.GetControllerOf(p); owner != nil {
		to.Controlled, to.DaemonSet = true, owner.Kind == "DaemonSet"
	}
	for _, v := range p.Spec.Volumes {
		to.LocalData = to.LocalData || v.EmptyDir != nil
	}
	return to
}
