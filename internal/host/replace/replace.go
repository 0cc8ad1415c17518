// Package replace has another board take a node over in a cluster. Where it is, the
// cluster says: an annotation of the Node, and the secret by which k3s knows its
// password. Every step looks first, so that a replacement that was interrupted goes on
// when it is asked for again.
package replace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/controller"
)

// Key is the annotation of a Node whose board is being replaced.
const Key = "pikelet.dev/replacing"

// k3s keeps a hash of each node's password in a secret
// (https://docs.k3s.io/cli/agent, node password; k3s-io/k3s, pkg/nodepassword).
const (
	secretSpace  = "kube-system"
	secretSuffix = ".node-password.k3s"
)

// Errors of a replacement.
var (
	// ErrStays is returned where pods do not leave the old board in time.
	ErrStays = errors.New("pods stay on the old board")
	// ErrOn is returned where the old board stays connected.
	ErrOn = errors.New("the old board is connected still")
	// ErrAway is returned where the new board does not join in time.
	ErrAway = errors.New("the new board has not joined yet")
	// ErrOld is returned where it is the old board that is connected, in the end.
	ErrOld = errors.New("the old board took the node back")
)

// note is what the annotation holds: the replacement, and the old board's part in
// the cluster when it began.
type note struct {
	Serial string `json:"serial"`           // of the new board
	Boot   string `json:"boot,omitempty"`   // id of the old board's boot
	Secret string `json:"secret,omitempty"` // UID of the old board's; "" for none
	// Cordon says that the replacement made the node unschedulable.
	Cordon bool `json:"cordon,omitempty"`
}

// Replacement has a board take a node over.
type Replacement struct {
	Client client.Client
	Node   string // name
	Serial string // of the new board
	Log    *slog.Logger
	Drain  rollout.Drain
	// PowerOff turns the board off that is the node, if it can; an error is shown, and
	// somebody has to do it by hand.
	PowerOff func(ctx context.Context) error
	// Connected returns the serial number of the board that answers as the node, "" for
	// none.
	Connected func(ctx context.Context) string
	Poll      time.Duration // between two looks
	Now       func() time.Time
}

// Begun reports whether the cluster knows of the replacement already.
func (r Replacement) Begun(ctx context.Context) (bool, error) {
	n, err := r.node(ctx)
	if err != nil || n == nil {
		return false, err
	}
	return noteOf(n).Serial == r.Serial, nil
}

// Ready reports whether the node is Ready, whichever board it is.
func (r Replacement) Ready(ctx context.Context) (bool, error) {
	n, err := r.node(ctx)
	return n != nil && ready(n), err
}

// Stays reports whether the node is Ready on the old board, as it was when the
// replacement began.
func (r Replacement) Stays(ctx context.Context) (bool, error) {
	n, err := r.node(ctx)
	return n != nil && ready(n) && n.Status.NodeInfo.BootID == noteOf(n).Boot, err
}

// node returns the node; nil where the cluster does not have it.
func (r Replacement) node(ctx context.Context) (*corev1.Node, error) {
	n := &corev1.Node{}
	err := r.Client.Get(ctx, client.ObjectKey{Name: r.Node}, n)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return n, err
}

func (r Replacement) secret(ctx context.Context) (*corev1.Secret, error) {
	s := &corev1.Secret{}
	err := r.Client.Get(ctx, client.ObjectKey{Namespace: secretSpace, Name: r.Node + secretSuffix}, s)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return s, err
}

func noteOf(n *corev1.Node) (t note) {
	_ = json.Unmarshal([]byte(n.Annotations[Key]), &t) // what cannot be read is none
	return t
}

func ready(n *corev1.Node) bool { return controller.DecodeNode(n).Ready }

// change changes the node, as often as somebody else changes it meanwhile.
func (r Replacement) change(ctx context.Context, f func(n *corev1.Node) error) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		n, err := r.node(ctx)
		if err != nil || n == nil {
			return err
		}
		if err := f(n); err != nil {
			return err
		}
		return r.Client.Update(ctx, n)
	})
}

// Leave has the old board leave: it is drained where it is connected, and turned off.
// Before all that the cluster is told, so that a later call goes on. The errors are
// ErrStays, ErrOn, and those of the API server.
func (r Replacement) Leave(ctx context.Context, limit time.Duration) error {
	s, err := r.secret(ctx)
	if err != nil {
		return err
	}
	on := false
	err = r.change(ctx, func(n *corev1.Node) error {
		on = ready(n)
		t := noteOf(n)
		if t.Serial != r.Serial {
			t = note{Serial: r.Serial, Boot: n.Status.NodeInfo.BootID}
			if s != nil {
				t.Secret = string(s.UID)
			}
		}
		if on {
			t.Boot = n.Status.NodeInfo.BootID // it may have restarted meanwhile
			t.Cordon = t.Cordon || !n.Spec.Unschedulable
			n.Spec.Unschedulable = true
		}
		text, err := json.Marshal(t)
		if err != nil {
			return err
		}
		if n.Annotations == nil {
			n.Annotations = map[string]string{}
		}
		n.Annotations[Key] = string(text)
		return nil
	})
	if err != nil || !on {
		return err
	}
	r.Log.Info("draining the old board", "node", r.Node)
	if err := r.evictAll(ctx); err != nil {
		return err
	}
	if err := r.PowerOff(ctx); err != nil {
		r.Log.Warn("the old board has to be turned off by hand", "node", r.Node, "err", err)
	} else {
		r.Log.Info("turning the old board off", "node", r.Node)
	}
	return r.until(ctx, limit, ErrOn, func() (bool, string, error) {
		n, err := r.node(ctx)
		return n == nil || !ready(n), "the old board is connected", err
	})
}

// evictAll has the pods leave that may, within the drain's timeout.
func (r Replacement) evictAll(ctx context.Context) error {
	blocked := map[types.UID]string{}
	return r.until(ctx, r.Drain.Timeout, ErrStays, func() (bool, string, error) {
		var list corev1.PodList
		if err := r.Client.List(ctx, &list); err != nil {
			return false, "", err
		}
		var pods []rollout.Pod
		for i := range list.Items {
			if p := &list.Items[i]; p.Spec.NodeName == r.Node {
				pods = append(pods, controller.DecodePod(p, blocked))
			}
		}
		leaving, refused := r.Drain.Leaving(pods)
		if refused != "" {
			return false, "", hint.With(fmt.Errorf("%w: %s", ErrStays, refused), "here these are --force and --delete-emptydir-data")
		}
		var names []string
		for _, p := range leaving {
			names = append(names, strings.TrimSpace(p.Namespace+"/"+p.Name+" "+p.Blocked))
			if p.Terminating {
				continue
			}
			uid := types.UID(p.UID)
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}}
			err := r.Client.SubResource("eviction").Create(ctx, pod, &policyv1.Eviction{
				ObjectMeta: pod.ObjectMeta, DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}},
			})
			switch {
			case err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err):
				delete(blocked, uid)
			case apierrors.IsTooManyRequests(err) || apierrors.IsInternalError(err): // a disruption budget
				blocked[uid] = "(" + err.Error() + ")"
			default:
				return false, "", err
			}
		}
		return len(leaving) == 0, strings.Join(names, ", "), nil
	})
}

// Refuse has the cluster refuse the old board: what it knows of its password goes,
// and the first board that joins with another one is the node from then on.
func (r Replacement) Refuse(ctx context.Context) error {
	n, err := r.node(ctx)
	if err != nil || n == nil {
		return err
	}
	s, err := r.secret(ctx)
	if err != nil || s == nil || string(s.UID) != noteOf(n).Secret {
		return err // it is gone, or the new board's already
	}
	uid := s.UID
	err = r.Client.Delete(ctx, s, client.Preconditions{UID: &uid})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		err = nil
	}
	if err == nil {
		r.Log.Info("the cluster has forgotten the old board's password", "node", r.Node)
	}
	return err
}

// Await waits until the new board is the node, and lets pods onto it again. The errors
// are ErrAway and ErrOld, and those of the API server.
func (r Replacement) Await(ctx context.Context, limit time.Duration) error {
	n, err := r.node(ctx)
	if err != nil {
		return err
	}
	boot := ""
	if n != nil {
		boot = noteOf(n).Boot
	}
	err = r.until(ctx, limit, ErrAway, func() (bool, string, error) {
		n, err := r.node(ctx)
		if err != nil || n == nil || !ready(n) || n.Status.NodeInfo.BootID == boot {
			return false, "the new board is not Ready", err
		}
		return true, "", nil
	})
	if err != nil {
		return err
	}
	if got := r.Connected(ctx); got != "" && !same(got, r.Serial) {
		return hint.With(fmt.Errorf("%w: its serial number is %s, want %s", ErrOld, got, r.Serial),
			"turn it off, delete the secret "+r.Node+secretSuffix+" in "+secretSpace+", and run this again")
	}
	return r.change(ctx, func(n *corev1.Node) error {
		if noteOf(n).Cordon {
			n.Spec.Unschedulable = false
		}
		delete(n.Annotations, Key)
		return nil
	})
}

func same(a, b string) bool {
	short := func(s string) string { return strings.ToLower(s[max(0, len(s)-8):]) }
	return short(a) == short(b)
}

// until looks again and again until done, for some time; then it returns late with
// what was missing. An API server that is away for a while is waited for.
func (r Replacement) until(ctx context.Context, limit time.Duration, late error, done func() (ok bool, missing string, err error)) error {
	said := ""
	for start := r.Now(); ; {
		ok, missing, err := done()
		var refused apierrors.APIStatus
		switch {
		case err != nil && (errors.As(err, &refused) || errors.Is(err, late)):
			return err
		case err != nil:
			missing = err.Error()
		case ok:
			return nil
		}
		if r.Now().Sub(start) >= limit {
			return fmt.Errorf("%w: %s", late, missing)
		}
		if missing != said {
			said = missing
			r.Log.Info("waiting", "while", missing)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(r.Poll):
		}
	}
}
