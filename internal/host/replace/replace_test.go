package replace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/controller"
)

const newSerial = "9abcdef0"

// long is longer than anything takes that comes to an end.
const long = time.Minute

// world is a cluster, two boards, and a desk whose power may go.
type world struct {
	t      *testing.T
	client client.Client
	cutAt  int    // the write to the API that is the last one; 0 for none
	after  bool   // it happens
	writes int    // so far
	joins  string // the board that joins once the secret is gone: its boot id; "" for none
	told   string // serial number by ssh
	off    int    // how often the old board was turned off
}

var errCut = errors.New("the power of the desk is cut")

func attic(ready bool, boot string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "attic"}}
	setReady(n, ready, boot)
	return n
}

func setReady(n *corev1.Node, ready bool, boot string) {
	status := corev1.ConditionUnknown
	if ready {
		status = corev1.ConditionTrue
	}
	n.Status.NodeInfo.BootID = boot
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
}

func password(uid types.UID) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: secretSpace, Name: "attic" + secretSuffix, UID: uid}}
}

func pod(name string, owner bool, volumes ...corev1.Volume) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
		Spec: corev1.PodSpec{NodeName: "attic", Volumes: volumes}}
	if owner {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web", Controller: &yes}}
	}
	return p
}

func newWorld(t *testing.T, objects ...client.Object) *world {
	t.Helper()
	s, err := controller.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, joins: "new", told: "10000000" + newSerial}
	write := func(do func() error) error {
		w.writes++
		if w.writes == w.cutAt && !w.after {
			return errCut
		}
		if err := do(); err != nil {
			return err
		}
		if w.writes == w.cutAt {
			return errCut
		}
		return nil
	}
	w.client = interceptor.NewClient(fake.NewClientBuilder().WithScheme(s).WithObjects(objects...).Build(), interceptor.Funcs{
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			return write(func() error { return c.Update(ctx, o, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return write(func() error {
				if o.GetUID() == "of the new board" {
					t.Error("the new board's password is forgotten")
				}
				err := c.Delete(ctx, o, opts...)
				if _, secret := o.(*corev1.Secret); secret && err == nil && w.joins != "" {
					w.join(c)
				}
				return err
			})
		},
	})
	return w
}

// join has a board join, whose password is kept.
func (w *world) join(c client.Client) {
	w.t.Helper()
	n := &corev1.Node{}
	if err := c.Get(w.t.Context(), client.ObjectKey{Name: "attic"}, n); err != nil {
		w.t.Fatal(err)
	}
	setReady(n, true, w.joins)
	if err := errors.Join(c.Status().Update(w.t.Context(), n), c.Create(w.t.Context(), password("of the new board"))); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) replacement() Replacement {
	return Replacement{
		Client: w.client, Node: "attic", Serial: newSerial, Log: slog.New(slog.DiscardHandler), Poll: time.Millisecond, Now: time.Now,
		Drain:     rollout.Drain{Timeout: long},
		Connected: func(context.Context) string { return w.told },
		PowerOff: func(ctx context.Context) error {
			w.off++
			n := w.node()
			setReady(n, false, n.Status.NodeInfo.BootID)
			return w.client.Status().Update(ctx, n)
		},
	}
}

func (w *world) node() *corev1.Node {
	w.t.Helper()
	n := &corev1.Node{}
	if err := w.client.Get(w.t.Context(), client.ObjectKey{Name: "attic"}, n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// run does what the command does; edited is whether the inventory has the new board.
func (w *world) run(edited *bool) error {
	r, ctx := w.replacement(), w.t.Context()
	begun, err := r.Begun(ctx)
	if err != nil {
		return err
	}
	stays, err := r.Stays(ctx)
	if err != nil {
		return err
	}
	if !*edited || !begun || stays {
		if ready, _ := r.Ready(ctx); *edited && !begun && ready {
			return nil // done
		}
		if err := r.Leave(ctx, long); err != nil {
			return err
		}
	}
	*edited = true
	if err := r.Refuse(ctx); err != nil {
		return err
	}
	return r.Await(ctx, long)
}

// TestReplaceThroughCuts: the desk loses its power at each write to the API, before
// or after it; the same command again ends the replacement, and the new board's
// password is never forgotten.
func TestReplaceThroughCuts(t *testing.T) {
	for _, on := range []bool{true, false} {
		for n := range 9 {
			for _, after := range []bool{false, true} {
				w := newWorld(t, attic(on, "old"), password("of the old board"), pod("web", true))
				w.cutAt, w.after = n, after
				what, edited := fmt.Sprintf("old board on: %v, write %d, after it: %v", on, n, after), false
				err := w.run(&edited)
				if n > 0 && n <= w.writes != (err != nil) {
					t.Errorf("%s: got error %v after %d writes", what, err, w.writes)
				}
				for range 2 {
					err = w.run(&edited)
				}
				if err != nil {
					t.Errorf("%s: %v", what, err)
				}
				got, s := w.node(), &corev1.Secret{}
				if got.Spec.Unschedulable || got.Annotations[Key] != "" || got.Status.NodeInfo.BootID != "new" {
					t.Errorf("%s: unschedulable %v, note %q, boot %s", what, got.Spec.Unschedulable, got.Annotations[Key], got.Status.NodeInfo.BootID)
				}
				if err := w.client.Get(t.Context(), client.ObjectKeyFromObject(password("")), s); err != nil || s.UID != "of the new board" {
					t.Errorf("%s: the password is %s, %v", what, s.UID, err)
				}
				if on != (w.off > 0) {
					t.Errorf("%s: turned off %d times", what, w.off)
				}
				if err := w.client.Get(t.Context(), client.ObjectKeyFromObject(pod("web", true)), &corev1.Pod{}); on != apierrors.IsNotFound(err) {
					t.Errorf("%s: the pod: %v", what, err)
				}
			}
		}
	}
}

// TestReplaceWaits: what keeps a replacement from going on, and what it leaves.
func TestReplaceWaits(t *testing.T) {
	local := corev1.Volume{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
	for name, c := range map[string]struct {
		objects []client.Object
		change  func(w *world, r *Replacement)
		want    error
		text    string
	}{
		"a pod without a controller": {[]client.Object{pod("alone", false)}, nil, ErrStays, "default/alone"},
		"a pod with local data":      {[]client.Object{pod("web", true, local)}, nil, ErrStays, "default/web"},
		"a board that stays on": {nil, func(_ *world, r *Replacement) {
			r.PowerOff = func(context.Context) error { return errors.New("ssh does not reach it") }
		}, ErrOn, "connected"},
		"a new board that does not come": {nil, func(w *world, _ *Replacement) { w.joins = "" }, ErrAway, "not Ready"},
		"the old board, with its boot":   {nil, func(w *world, _ *Replacement) { w.joins = "old" }, ErrAway, "not Ready"},
		"the old board, once more": {nil, func(w *world, _ *Replacement) {
			w.joins, w.told = "again", "1000000012345678"
		}, ErrOld, "12345678"},
	} {
		w := newWorld(t, append(c.objects, attic(true, "old"), password("of the old board"))...)
		r := w.replacement()
		r.Drain.Timeout = 20 * time.Millisecond
		if c.change != nil {
			c.change(w, &r)
		}
		err := errors.Join(r.Leave(t.Context(), 20*time.Millisecond))
		if err == nil {
			err = errors.Join(r.Refuse(t.Context()), r.Await(t.Context(), 20*time.Millisecond))
		}
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got error %v, want %v with %q", name, err, c.want, c.text)
		}
		if n := w.node(); !n.Spec.Unschedulable || noteOf(n).Serial != newSerial {
			t.Errorf("%s: unschedulable %v, note %q", name, n.Spec.Unschedulable, n.Annotations[Key])
		}
		// While the old board is not off, its password stays.
		stays := w.client.Get(t.Context(), client.ObjectKeyFromObject(password("")), &corev1.Secret{}) == nil
		if early := errors.Is(c.want, ErrStays) || errors.Is(c.want, ErrOn); early && !stays {
			t.Errorf("%s: the password is forgotten", name)
		}
	}
	// A node that was unschedulable stays so.
	n := attic(true, "old")
	n.Spec.Unschedulable = true
	w, edited := newWorld(t, n, password("of the old board")), false
	if err := w.run(&edited); err != nil || !w.node().Spec.Unschedulable {
		t.Errorf("%v, unschedulable %v", err, w.node().Spec.Unschedulable)
	}
	// One that the cluster does not know joins, and is waited for.
	w = newWorld(t)
	r := w.replacement()
	if err := errors.Join(r.Leave(t.Context(), 0), r.Refuse(t.Context())); err != nil {
		t.Error(err)
	}
	if err := r.Await(t.Context(), 0); !errors.Is(err, ErrAway) {
		t.Errorf("got error %v, want %v", err, ErrAway)
	}
}
