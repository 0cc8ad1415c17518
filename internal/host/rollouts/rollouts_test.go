package rollouts

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/patch"
	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/controller"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/v1alpha1"
)

const (
	repository = "registry.example/pi/lab"
	old        = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	next       = "sha256:2222222222222222222222222222222222222222222222222222222222222222"
	gone       = "sha256:3333333333333333333333333333333333333333333333333333333333333333"
)

// cluster returns a client of a cluster that holds objects.
func cluster(t *testing.T, objects ...client.Object) client.Client {
	t.Helper()
	s, err := controller.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(s).WithObjects(objects...).WithStatusSubresource(&v1alpha1.Rollout{}).Build()
}

func lab() *v1alpha1.Rollout {
	return New("lab", v1alpha1.RolloutSpec{Image: repository + ":2.0@" + next})
}

// TestFind: a name, or none where there is one rollout.
func TestFind(t *testing.T) {
	ctx := t.Context()
	attic := New("attic", v1alpha1.RolloutSpec{Image: repository + "@" + old})
	for name, c := range map[string]struct {
		objects []client.Object
		name    string
		want    string // the name that is found, or the error
	}{
		"the only one":  {[]client.Object{lab()}, "", "lab"},
		"by its name":   {[]client.Object{lab(), attic}, "attic", "attic"},
		"no name":       {[]client.Object{lab(), attic}, "", "which of attic, lab?"},
		"another name":  {[]client.Object{lab(), attic}, "shed", `"shed"; there are attic, lab`},
		"none there is": {nil, "lab", "the cluster has none"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Find(ctx, cluster(t, c.objects...), c.name)
			switch {
			case err == nil && r.Name != c.want:
				t.Errorf("found %s, want %s", r.Name, c.want)
			case err != nil && (!errors.Is(err, ErrNone) || !strings.HasSuffix(err.Error(), c.want)):
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// TestPause: a rollout is paused once, and goes on once.
func TestPause(t *testing.T) {
	c := cluster(t, lab())
	for i, want := range []struct{ pause, changed bool }{{true, true}, {true, false}, {false, true}, {false, false}} {
		r, changed, err := Pause(t.Context(), c, "lab", want.pause)
		if err != nil || changed != want.changed || r.Spec.Pause != want.pause {
			t.Errorf("%d: changed %v, paused %v, %v; want %+v", i, changed, r.Spec.Pause, err, want)
		}
	}
}

// TestUndo: a rollout that halted goes back to the image it completed last, one that
// is complete to the one before that.
func TestUndo(t *testing.T) {
	image := lab().Spec.Image
	for name, c := range map[string]struct {
		completed, previous string
		want                string // "" for ErrNoneBefore
	}{
		"never completed any":       {"", "", ""},
		"halted on its way":         {repository + "@" + old, repository + "@" + gone, repository + "@" + old},
		"complete":                  {image, repository + "@" + old, repository + "@" + old},
		"complete, and the first":   {image, "", ""},
		"halted, the first is kept": {repository + "@" + old, "", repository + "@" + old},
	} {
		t.Run(name, func(t *testing.T) {
			r := lab()
			r.Spec.Pause = true
			r.Status.Completed, r.Status.Previous = c.completed, c.previous
			k := cluster(t, r)
			got, err := Undo(t.Context(), k, "lab")
			if c.want == "" {
				if !errors.Is(err, ErrNoneBefore) {
					t.Errorf("got %v, want ErrNoneBefore", err)
				}
				return
			}
			if err != nil || got.Spec.Image != c.want || got.Spec.Pause {
				t.Errorf("got %+v, %v, want image %s", got, err, c.want)
			}
		})
	}
}

// images is a registry that has some images.
type images map[string]*image.Manifest

func (i images) Image(_ context.Context, ref string) (*image.Manifest, error) {
	if m := i[ref]; m != nil {
		return m, nil
	}
	return nil, errors.New("not there: " + ref)
}

func (i images) Patch(_ context.Context, _, from string) (int64, error) {
	if from == old {
		return 5 << 20, nil
	}
	return 0, nil
}

func manifest(release, kubernetes string, sizes map[string]int64) *image.Manifest {
	m := &image.Manifest{Stream: "lab", Release: release, Kubernetes: kubernetes, SlotSize: 256 << 20}
	for _, name := range []string{"bootcode.bin", "root.squashfs", "start4.elf"} {
		m.Files = append(m.Files, image.File{Name: name, Size: sizes[name], Digest: name + release})
	}
	return m
}

func nodeOf(name, digest, kubelet string, server bool) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{"site": "attic"},
		Annotations: map[string]string{}}}
	n.Status.NodeInfo.KubeletVersion = kubelet
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if digest != "" {
		n.Annotations[rollout.ImageKey] = rollout.Image{Stream: "lab", Release: "1.0", Digest: digest}.Encode()
	}
	if server {
		n.Labels["node-role.kubernetes.io/control-plane"] = "true"
	}
	return n
}

func podOf(node, name, owner string, volumes ...corev1.Volume) corev1.Pod {
	p := corev1.Pod{}
	p.Namespace, p.Name, p.UID, p.Labels = "default", name, types.UID(name), map[string]string{"app": name}
	if owner != "" {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{Kind: owner, Controller: &yes}}
	}
	p.Spec.NodeName, p.Spec.Volumes = node, volumes
	return p
}

// TestPlan: for each node the way, the bytes, the pods, and every reason for which the
// rollout would not go on.
func TestPlan(t *testing.T) {
	scratch := corev1.Volume{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
	s := State{
		Nodes: []corev1.Node{
			nodeOf("attic", old, "v1.34.4", false), nodeOf("cellar", gone, "v1.34.4", true), nodeOf("shed", next, "v1.35.1", false),
			nodeOf("nas", "", "v1.34.4", false),
		},
		Pods: []corev1.Pod{
			podOf("attic", "web", "ReplicaSet"), podOf("attic", "logs", "DaemonSet"), podOf("attic", "cache", "ReplicaSet", scratch),
			podOf("cellar", "db", "StatefulSet"), podOf("cellar", "bare", ""),
		},
		Budgets: []policyv1.PodDisruptionBudget{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"},
			Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}},
		}},
	}
	from := manifest("1.0", "v1.34.4", map[string]int64{"root.squashfs": 100 << 20, "start4.elf": 2 << 20})
	to := manifest("2.0", "v1.35.1", map[string]int64{"root.squashfs": 120 << 20, "start4.elf": 2 << 20})
	registry := images{lab().Spec.Image: to, repository + "@" + old: from}

	p, err := MakePlan(t.Context(), lab(), s, registry)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	by := map[string]Turn{}
	for _, n := range p.Nodes {
		names, by[n.Node] = append(names, n.Node), n
	}
	if got := strings.Join(names, " "); got != "cellar attic shed" {
		t.Errorf("turns of %s, want cellar attic shed", got)
	}
	attic, cellar, shed := by["attic"], by["cellar"], by["shed"]
	if !shed.Runs || len(shed.Problems) > 0 || shed.Bytes != 0 {
		t.Errorf("shed: %+v, want a node that runs the image", shed)
	}
	if attic.Way != patch.ByPatch || attic.Bytes != 5<<20 || !attic.Firmware || attic.Headroom == nil || *attic.Headroom != 134<<20 ||
		!slices.Equal(attic.Moves, []string{"default/cache", "default/web"}) || attic.Ends != 1 {
		t.Errorf("attic: %+v", attic)
	}
	if len(attic.Problems) != 1 || !strings.Contains(attic.Problems[0], "default/cache keeps data in an emptyDir") {
		t.Errorf("attic: problems %q", attic.Problems)
	}
	if cellar.Way != "" || cellar.Bytes != to.Size() || cellar.Headroom != nil {
		t.Errorf("cellar, whose image the registry has no more: %+v", cellar)
	}
	got := strings.Join(cellar.Problems, "\n")
	if len(cellar.Problems) != 2 || !strings.Contains(got, "default/bare has no controller") ||
		!strings.Contains(got, "the disruption budget db allows no disruption now") {
		t.Errorf("cellar: problems %q", cellar.Problems)
	}
	if len(p.Others) != 1 || p.Others[0].Node != "nas" {
		t.Errorf("others: %+v, want nas", p.Others)
	}
}

// TestPlanSkew: an agent's kubelet would be newer than the API server where the
// rollout does not bring the release to the server.
func TestPlanSkew(t *testing.T) {
	s := State{Nodes: []corev1.Node{nodeOf("attic", old, "v1.34.4", false), nodeOf("cellar", old, "v1.34.4", true)}}
	s.Nodes[1].Labels["site"] = "cellar"
	from := manifest("1.0", "v1.34.4", nil)
	r := lab()
	for _, c := range []struct {
		site, brings, want string
	}{
		{"attic", "v1.35.1", "a kubelet must not be newer than the API server"},
		{"attic", "v1.34.9", "a kubelet must not be newer than the API server"},
		{"", "v1.35.1", ""},
		{"", "v1.36.0", "Kubernetes moves one minor version at a time"},
	} {
		r.Spec.NodeSelector = nil
		if c.site != "" {
			r.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"site": c.site}}
		}
		registry := images{r.Spec.Image: manifest("2.0", c.brings, nil), repository + "@" + old: from}
		p, err := MakePlan(t.Context(), r, s, registry)
		if err != nil {
			t.Fatal(err)
		}
		var problems []string
		for _, n := range p.Nodes {
			problems = append(problems, n.Problems...)
		}
		got := strings.Join(problems, "\n")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("site %q, %s: problems %q, want %q", c.site, c.brings, got, c.want)
		}
	}
}

// TestDefinition: the definition that a computer brings is that of the overlay, and
// names the kind that it uses.
func TestDefinition(t *testing.T) {
	d, err := Definition()
	if err != nil || d.GetName() != "rollouts.pikelet.dev" || d.GetKind() != "CustomResourceDefinition" {
		t.Errorf("got %s %s, %v", d.GetKind(), d.GetName(), err)
	}
}

// TestPlace: an upgrade makes its rollout, brings it to another image, and leaves one
// alone that something else made.
func TestPlace(t *testing.T) {
	c := cluster(t)
	want := lab()
	for _, image := range []string{repository + "@" + old, repository + "@" + next} {
		want.Spec.Image = image
		if r, err := place(t.Context(), c, want); err != nil || r.Spec.Image != image {
			t.Fatalf("%s: got %+v, %v", image, r, err)
		}
	}
	kept := lab()
	kept.Spec.Windows = []v1alpha1.Window{{Time: "02:00-05:00"}}
	c = cluster(t, kept)
	if _, err := place(t.Context(), c, want); !errors.Is(err, ErrOthers) {
		t.Errorf("got %v, want ErrOthers", err)
	}
	if r, err := Find(t.Context(), c, "lab"); err != nil || len(r.Spec.Windows) != 1 {
		t.Errorf("the rollout of others is %+v now, %v", r, err)
	}
}

// TestPauseBesideController: the status of a rollout that is written meanwhile does
// not keep it from being paused.
func TestPauseBesideController(t *testing.T) {
	c := cluster(t, lab())
	busy := interceptor.NewClient(c.(client.WithWatch), interceptor.Funcs{Patch: func(
		ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption,
	) error {
		now := &v1alpha1.Rollout{}
		if err := c.Get(ctx, client.ObjectKeyFromObject(o), now); err != nil {
			return err
		}
		if now.Status.Began < 2 { // the controller is faster, twice
			now.Status.Began++
			if err := c.Status().Update(ctx, now); err != nil {
				return err
			}
		}
		return c.Patch(ctx, o, p, opts...)
	}})
	r, changed, err := Pause(t.Context(), busy, "lab", true)
	if err != nil || !changed || !r.Spec.Pause || r.Status.Began != 2 {
		t.Errorf("got %+v, changed %v, %v", r, changed, err)
	}
}
