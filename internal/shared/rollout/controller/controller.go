// Package controller carries out rollouts on a Kubernetes cluster, by what package
// rollout decides. It runs on a cluster's servers, elected by a Lease, and on a
// computer that has a kubeconfig.
package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	managed "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/v1alpha1"
)

// Namespace and Lock name the Lease that says which rollout may have nodes under
// way.
const (
	Namespace = "kube-system"
	Lock      = "pikelet-rollouts"
)

// finalizer keeps a rollout that is deleted until what it began is ended.
const finalizer = "pikelet.dev/rollout"

// How often a rollout is looked at without a change: pods and clocks send none.
const (
	busyEvery = 5 * time.Second
	idleEvery = time.Minute
)

// Reconciler carries out rollouts.
type Reconciler struct {
	Client client.Client // may read from a cache
	Live   client.Reader // reads from the API server
	Now    func() time.Time
	Log    *slog.Logger
	// Resolve returns a reference with the digest of the manifest of the image that
	// another one names, by a tag or by an index. Nil takes digests as they are, and
	// no tags.
	Resolve func(ctx context.Context, ref string) (string, error)

	mu      sync.Mutex
	blocked map[types.UID]string // why pods were not evicted last
	asked   map[types.UID]answer // what registries said last
}

// SetUp has a manager run the reconciler.
func (r *Reconciler) SetUp(m ctrl.Manager) error {
	all := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, _ client.Object) (list []reconcile.Request) {
		var rollouts v1alpha1.RolloutList
		if err := r.Client.List(ctx, &rollouts); err != nil {
			r.Log.Error("listing rollouts", "err", err)
		}
		for _, o := range rollouts.Items {
			list = append(list, reconcile.Request{NamespacedName: types.NamespacedName{Name: o.Name}})
		}
		return list
	})
	// Names tell metrics apart, which are off; a process that lost its Lease starts over.
	again := true
	return ctrl.NewControllerManagedBy(m).For(&v1alpha1.Rollout{}).Watches(&corev1.Node{}, all).
		WithOptions(managed.Options{SkipNameValidation: &again}).Complete(r)
}

// Reconcile looks at one rollout, and does what is next.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	busy, err := r.reconcile(ctx, req.Name)
	switch {
	case apierrors.IsConflict(err):
		return reconcile.Result{RequeueAfter: time.Second}, nil // what was seen was old
	case err != nil:
		return reconcile.Result{}, err
	case busy:
		return reconcile.Result{RequeueAfter: busyEvery}, nil
	}
	return reconcile.Result{RequeueAfter: idleEvery}, nil
}

// reconcile reports whether nodes are under way.
func (r *Reconciler) reconcile(ctx context.Context, name string) (busy bool, err error) {
	o := &v1alpha1.Rollout{}
	if err := r.Client.Get(ctx, client.ObjectKey{Name: name}, o); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	if o.DeletionTimestamp == nil && controllerutil.AddFinalizer(o, finalizer) {
		return true, r.Client.Update(ctx, o)
	}
	var nodes corev1.NodeList
	if err := r.Client.List(ctx, &nodes); err != nil {
		return false, err
	}
	v := rollout.View{Now: r.Now()}
	for i := range nodes.Items {
		v.Nodes = append(v.Nodes, DecodeNode(&nodes.Items[i]))
	}
	lease, err := r.lock(ctx)
	if err != nil {
		return false, err
	}
	v.Lock = lockOf(lease)
	image, unknown := r.image(ctx, o)
	decided, invalid := Decode(o, image, v.Nodes)
	invalid = cmp.Or(unknown, invalid)
	// What was begun before the spec became invalid is ended all the same.
	ended := len(o.Status.Turns) == 0 && o.DeletionTimestamp == nil && v.Lock.Holder != string(o.UID)
	if invalid != nil && ended {
		return false, r.refuse(ctx, o, invalid)
	}
	if v.Others, err = r.others(ctx, o, v.Nodes); err != nil {
		return false, err
	}
	if v.Pods, err = r.pods(ctx, decided.Status); err != nil {
		return false, err
	}
	for _, a := range rollout.Decide(decided, v) {
		if err := r.do(ctx, o, nodes.Items, lease, a); err != nil {
			return true, err
		}
		busy = true
	}
	return busy || len(o.Status.Turns) > 0, nil
}

// refuse has the status say why a spec cannot be carried out.
func (r *Reconciler) refuse(ctx context.Context, o *v1alpha1.Rollout, err error) error {
	if o.Status.Reason == err.Error() && o.Status.ObservedGeneration == o.Generation {
		return nil
	}
	o.Status.State, o.Status.Reason, o.Status.ObservedGeneration = string(rollout.Waiting), err.Error(), o.Generation
	return r.Client.Status().Update(ctx, o)
}

// others returns the other rollouts. One that cannot be carried out owns no nodes.
func (r *Reconciler) others(ctx context.Context, o *v1alpha1.Rollout, nodes []rollout.Node) (list []*rollout.Rollout, err error) {
	var all v1alpha1.RolloutList
	if err := r.Client.List(ctx, &all); err != nil {
		return nil, err
	}
	for i := range all.Items {
		if all.Items[i].UID == o.UID {
			continue
		}
		if other, err := Decode(&all.Items[i], imageOf(&all.Items[i]), nodes); err == nil {
			list = append(list, other)
		}
	}
	return list, nil
}

// lock returns the Lease; nil where there is none yet. It is never read from a
// cache.
func (r *Reconciler) lock(ctx context.Context) (*coordinationv1.Lease, error) {
	l := &coordinationv1.Lease{}
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: Namespace, Name: Lock}, l)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return l, err
}

func lockOf(l *coordinationv1.Lease) (lock rollout.Lock) {
	if l != nil && l.Spec.HolderIdentity != nil {
		lock.Holder = *l.Spec.HolderIdentity
	}
	if l != nil && l.Spec.LeaseTransitions != nil {
		lock.Epoch = int64(*l.Spec.LeaseTransitions)
	}
	return lock
}

// pods returns those of the nodes that are about to restart, as the API server has
// them.
func (r *Reconciler) pods(ctx context.Context, s rollout.Status) (map[string][]rollout.Pod, error) {
	all := map[string][]rollout.Pod{}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range s.Turns {
		if t.Step != rollout.Evict && t.Step != rollout.Restart {
			continue
		}
		var list corev1.PodList
		if err := r.Live.List(ctx, &list, client.MatchingFields{"spec.nodeName": t.Node}); err != nil {
			return nil, err
		}
		pods := []rollout.Pod{}
		for i := range list.Items {
			pods = append(pods, DecodePod(&list.Items[i], r.blocked))
		}
		all[t.Node] = pods
	}
	return all, nil
}

// do carries out one action. What was decided by an old version of an object is
// refused by the API server, with a conflict.
func (r *Reconciler) do(ctx context.Context, o *v1alpha1.Rollout, nodes []corev1.Node, lease *coordinationv1.Lease,
	a rollout.Action) error {
	switch a.Kind {
	case rollout.WriteStatus:
		if was := o.Status.State; was != string(a.Status.State) {
			r.Log.Info("rollout", "name", o.Name, "state", string(a.Status.State), "reason", a.Status.Reason)
		}
		o.Status = encodeStatus(a.Status)
		return r.Client.Status().Update(ctx, o)
	case rollout.TakeLock:
		return r.take(ctx, o, lease)
	case rollout.ReleaseLock:
		if l := lockOf(lease); l.Holder != string(o.UID) || l.Epoch != a.Epoch {
			return nil
		}
		lease.Spec.HolderIdentity = nil
		return r.Client.Update(ctx, lease)
	case rollout.PatchNode:
		for i := range nodes {
			if nodes[i].Name == a.Node {
				return r.patch(ctx, &nodes[i], a.Change)
			}
		}
	case rollout.EvictPod:
		return r.evict(ctx, a)
	case rollout.Forget:
		if controllerutil.RemoveFinalizer(o, finalizer) {
			return client.IgnoreNotFound(r.Client.Update(ctx, o))
		}
	}
	return nil
}

// take takes the lock for a rollout.
func (r *Reconciler) take(ctx context.Context, o *v1alpha1.Rollout, lease *coordinationv1.Lease) error {
	holder, epoch := string(o.UID), int32(1)
	now := metav1.NewMicroTime(r.Now())
	if lease == nil {
		lease = &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: Lock},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseTransitions: &epoch, AcquireTime: &now},
		}
		return r.Client.Create(ctx, lease)
	}
	epoch += int32(lockOf(lease).Epoch)
	lease.Spec.HolderIdentity, lease.Spec.LeaseTransitions, lease.Spec.AcquireTime = &holder, &epoch, &now
	return r.Client.Update(ctx, lease)
}

// patch changes a node of the version that was seen.
func (r *Reconciler) patch(ctx context.Context, n *corev1.Node, c rollout.Change) error {
	was := n.DeepCopy()
	if n.Annotations == nil {
		n.Annotations = map[string]string{}
	}
	if c.Unschedulable != nil {
		n.Spec.Unschedulable = *c.Unschedulable
	}
	if c.CordonedBy != nil {
		set(n.Annotations, rollout.CordonKey, *c.CordonedBy)
	}
	if c.Request != nil && c.Request.ID != "" {
		n.Annotations[rollout.RequestKey] = c.Request.Encode()
	} else if c.Request != nil {
		delete(n.Annotations, rollout.RequestKey)
	}
	return r.Client.Patch(ctx, n, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{}))
}

// set sets a key, or takes it away where there is no value.
func set(m map[string]string, key, value string) {
	if value == "" {
		delete(m, key)
		return
	}
	m[key] = value
}

// evict evicts a pod, and remembers why that is not done: a disruption budget holds
// it, or several match it. Both may change, and the pod is tried again.
func (r *Reconciler) evict(ctx context.Context, a rollout.Action) error {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: a.Pod.Namespace, Name: a.Pod.Name}}
	uid := types.UID(a.Pod.UID)
	err := r.Client.SubResource("eviction").Create(ctx, pod, &policyv1.Eviction{
		ObjectMeta: pod.ObjectMeta, DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}},
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.blocked == nil {
		r.blocked = map[types.UID]string{}
	}
	switch {
	case err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err): // it goes, or is another pod
		delete(r.blocked, uid)
		r.Log.Info("evicting a pod", "node", a.Node, "namespace", a.Pod.Namespace, "pod", a.Pod.Name)
		return nil
	case apierrors.IsTooManyRequests(err) || apierrors.IsInternalError(err):
		if len(r.blocked) >= maxBlocked {
			clear(r.blocked)
		}
		r.blocked[uid] = reasonOf(err)
		return nil
	}
	return fmt.Errorf("evicting %s/%s: %w", a.Pod.Namespace, a.Pod.Name, err)
}

// maxBlocked bounds how many pods are remembered.
const maxBlocked = 1000

// reasonOf returns why the API server refused an eviction: the budget's own words
// where it says them.
func reasonOf(err error) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		if d := status.Status().Details; d != nil {
			for _, c := range d.Causes {
				if c.Type == policyv1.DisruptionBudgetCause {
					return c.Message
				}
			}
		}
	}
	return err.Error()
}

// Sweep takes away what rollouts left behind that are gone without having ended it:
// someone took their finalizer.
func (r *Reconciler) Sweep(ctx context.Context) error {
	var nodes corev1.NodeList
	if err := r.Live.List(ctx, &nodes); err != nil {
		return err
	}
	lease, err := r.lock(ctx)
	if err != nil {
		return err
	}
	var rollouts v1alpha1.RolloutList // after what they left, so that a new one is known
	if err := r.Live.List(ctx, &rollouts); err != nil {
		return err
	}
	known := map[string]bool{"": true}
	for _, o := range rollouts.Items {
		known[string(o.UID)] = true
	}
	no, none := false, ""
	for i := range nodes.Items {
		n := &nodes.Items[i]
		if by := n.Annotations[rollout.CordonKey]; !known[by] {
			r.Log.Warn("making a node schedulable that a rollout left", "node", n.Name, "rollout", by)
			err := r.patch(ctx, n, rollout.Change{Unschedulable: &no, CordonedBy: &none, Request: &rollout.Request{}})
			if client.IgnoreNotFound(err) != nil {
				return err
			}
		}
	}
	if l := lockOf(lease); !known[l.Holder] {
		r.Log.Warn("releasing the lock of a rollout that is gone", "rollout", l.Holder)
		lease.Spec.HolderIdentity = nil
		return r.Client.Update(ctx, lease)
	}
	return nil
}
