package rollouts

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/patch"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/controller"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/v1alpha1"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
)

// Plan is what a rollout would do, as far as a computer can tell that does not reach
// the nodes.
type Plan struct {
	Rollout    string `json:"rollout"`
	Image      string `json:"image"`
	Release    string `json:"release"`
	Kubernetes string `json:"kubernetes,omitempty"`
	Nodes      []Turn `json:"nodes"` // in the order of their turns
	// Others are the nodes that are not selected, with the reason.
	Others []Other `json:"others,omitempty"`
}

// Turn is what would be done to a node.
type Turn struct {
	Node    string `json:"node"`
	Server  bool   `json:"server"`
	Release string `json:"release"` // the one that runs
	Runs    bool   `json:"runs"`    // the node runs the image already, and nothing is done
	// Way is one of those of package patch, Bytes what is downloaded by it at most,
	// and Seconds how long that takes over 100 Mbit/s. Way is "" where the registry
	// has no image that the node runs, and Bytes that of the whole image.
	Way     string  `json:"way,omitempty"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	// Headroom is how many bytes of a slot the image leaves free; negative where the
	// image is too large. Nil is not known.
	Headroom *int64 `json:"headroom,omitempty"`
	// Firmware is set where the image brings other firmware of the board.
	Firmware bool `json:"firmware"`
	// Moves are the pods that are evicted, and Ends those that end with the node and
	// start with it: of DaemonSets, and static ones.
	Moves []string `json:"moves,omitempty"`
	Ends  int      `json:"ends"`
	// NotReady is how long a node of this rollout took at most so far, from its
	// restart until it was Ready and kept its release, in seconds; 0 is not known.
	NotReady float64 `json:"notReady"`
	// Problems are what would halt the rollout there, or have it wait.
	Problems []string `json:"problems,omitempty"`
}

// Other is a node that takes no part in a rollout.
type Other struct {
	Node   string `json:"node"`
	Reason string `json:"reason"`
}

// Source tells of images.
type Source interface {
	// Image returns the manifest of the image with a reference, which has a digest.
	Image(ctx context.Context, ref string) (*image.Manifest, error)
	// Patch returns how many bytes the patch has that makes an image of the one with
	// the digest from; 0 where there is none.
	Patch(ctx context.Context, ref, from string) (int64, error)
}

// State is what a plan is made of.
type State struct {
	Nodes   []corev1.Node
	Pods    []corev1.Pod
	Budgets []policyv1.PodDisruptionBudget
	API     *version.Info
}

// Look reads the state of a cluster, by a client and what it is connected with.
func Look(ctx context.Context, c client.Reader, cfg *rest.Config) (s State, err error) {
	d, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return s, err
	}
	if s.API, err = d.ServerVersion(); err != nil {
		return s, explain(fmt.Errorf("asking for the version of the API server: %w", err))
	}
	var nodes corev1.NodeList
	if err := c.List(ctx, &nodes); err != nil {
		return s, explain(err)
	}
	var pods corev1.PodList
	if err := c.List(ctx, &pods); err != nil {
		return s, explain(err)
	}
	var budgets policyv1.PodDisruptionBudgetList
	if err := c.List(ctx, &budgets); err != nil {
		return s, explain(err)
	}
	s.Nodes, s.Pods, s.Budgets = nodes.Items, pods.Items, budgets.Items
	return s, nil
}

// MakePlan returns what a rollout would do to a cluster. Nothing is changed, neither
// there nor in the registry.
func MakePlan(ctx context.Context, o *v1alpha1.Rollout, s State, images Source) (*Plan, error) {
	nodes := make([]rollout.Node, len(s.Nodes))
	versions := map[string]string{}
	for i := range s.Nodes {
		nodes[i] = controller.DecodeNode(&s.Nodes[i])
		versions[s.Nodes[i].Name] = s.Nodes[i].Status.NodeInfo.KubeletVersion
	}
	r, err := controller.Decode(o, o.Spec.Image, nodes)
	if err != nil {
		return nil, err
	}
	m, err := images.Image(ctx, o.Spec.Image)
	if err != nil {
		return nil, err
	}
	p := &Plan{Rollout: o.Name, Image: o.Spec.Image, Release: m.Release, Kubernetes: m.Kubernetes}
	to := planner{r, m, s, images, nodes, versions}
	for _, n := range r.Order(nodes) {
		t, err := to.turn(ctx, n)
		if err != nil {
			return nil, err
		}
		p.Nodes = append(p.Nodes, t)
	}
	for i := range nodes {
		switch n := &nodes[i]; {
		case r.Selected(n):
		case n.Image == nil:
			p.Others = append(p.Others, Other{n.Name, "it does not run Pikelet, or a release of before rollouts"})
		default:
			p.Others = append(p.Others, Other{n.Name, "the selector does not match its labels"})
		}
	}
	return p, nil
}

// planner makes the turns of a plan.
type planner struct {
	r        *rollout.Rollout
	to       *image.Manifest
	state    State
	images   Source
	nodes    []rollout.Node
	versions map[string]string // of the kubelets, by node
}

func (p *planner) turn(ctx context.Context, n *rollout.Node) (Turn, error) {
	t := Turn{Node: n.Name, Server: n.Server, Release: n.Image.Release, Runs: p.r.Runs(n), NotReady: p.r.Status.Slowest.Seconds()}
	if t.Runs {
		return t, nil
	}
	if err := p.download(ctx, n, &t); err != nil {
		return t, err
	}
	t.Seconds = float64(t.Bytes) / patch.LinkRate
	p.drain(n, &t)
	if n.Image.Stream != p.to.Stream {
		t.Problems = append(t.Problems, fmt.Sprintf("it runs stream %q, and the image is of %q", n.Image.Stream, p.to.Stream))
	}
	if err := p.skew(n); err != nil {
		t.Problems = append(t.Problems, err.Error())
	}
	if !n.Ready {
		t.Problems = append(t.Problems, "it is not Ready")
	}
	if n.Learner {
		t.Problems = append(t.Problems, "its etcd is no voting member")
	}
	if t.Headroom != nil && *t.Headroom < 0 {
		t.Problems = append(t.Problems, fmt.Sprintf("the image is %d bytes too large for its slots", -*t.Headroom))
	}
	return t, nil
}

// download fills in by which way the node comes by the image.
func (p *planner) download(ctx context.Context, n *rollout.Node, t *Turn) error {
	t.Bytes = p.to.Size()
	from, err := p.images.Image(ctx, registry.Name(p.r.Spec.Image)+"@"+n.Image.Digest)
	if err != nil { // cleaned up in the registry, as a rule
		return ctx.Err()
	}
	headroom := from.SlotSize - p.to.Size()
	t.Headroom = &headroom
	lacking := p.to.Lacking(from)
	t.Firmware = slices.ContainsFunc(lacking, func(f image.File) bool { return boards.HasFirmware(f.Name) })
	bytes, err := p.images.Patch(ctx, p.r.Spec.Image, n.Image.Digest)
	if err != nil {
		return err
	}
	if bytes > 0 {
		t.Way, t.Bytes = patch.ByPatch, bytes
		return nil
	}
	t.Way = patch.ByFiles
	if len(lacking) == len(p.to.Files) {
		t.Way = patch.ByImage
	}
	t.Bytes = 0
	for _, f := range lacking {
		t.Bytes += f.Size
	}
	return nil
}

// skew returns why Kubernetes' rule on versions keeps the node from the image once
// its turn has come: the servers that are selected have the image by then.
func (p *planner) skew(n *rollout.Node) error {
	if p.to.Kubernetes == "" {
		return nil
	}
	to, err := skew.Parse(p.to.Kubernetes)
	if err != nil {
		return err
	}
	c := skew.Cluster{Server: n.Server}
	c.Kubelet, _ = skew.Parse(p.versions[n.Name])
	api := to
	for i := range p.nodes {
		o := &p.nodes[i]
		v, err := skew.Parse(p.versions[o.Name])
		if err != nil {
			continue
		}
		if p.r.Selected(o) && o.Server && (!n.Server || o.Name < n.Name) {
			v = to
		}
		if o.Name != n.Name && n.Server {
			c.Others = append(c.Others, skew.Member{Name: o.Name, Server: o.Server, Kubelet: v})
		}
		if o.Server && v.Compare(api) < 0 && (!n.Server || o.Name == n.Name) {
			api = v
		}
	}
	if !slices.ContainsFunc(p.nodes, func(o rollout.Node) bool { return o.Server }) && p.state.API != nil {
		if api, err = skew.Parse(p.state.API.GitVersion); err != nil {
			return err
		}
	}
	c.API = api
	return skew.Check(to, c)
}

// drain fills in which pods leave the node, and what holds them.
func (p *planner) drain(n *rollout.Node, t *Turn) {
	var pods []rollout.Pod
	for i := range p.state.Pods {
		o := &p.state.Pods[i]
		if o.Spec.NodeName != n.Name {
			continue
		}
		pod := controller.DecodePod(o, nil)
		if (pod.Static || pod.DaemonSet) && !pod.Finished {
			t.Ends++
		}
		pods = append(pods, pod)
	}
	leave, refused := p.r.Spec.Drain.Leaving(pods)
	if refused != "" {
		t.Problems = append(t.Problems, refused)
	}
	for _, pod := range leave {
		t.Moves = append(t.Moves, pod.Namespace+"/"+pod.Name)
		if why := p.held(pod); why != "" {
			t.Problems = append(t.Problems, why)
		}
	}
	slices.Sort(t.Moves)
	slices.Sort(t.Problems)
	t.Problems = slices.Compact(t.Problems)
}

// held returns which disruption budget lets a pod not be evicted now; "" for none.
func (p *planner) held(pod rollout.Pod) string {
	i := slices.IndexFunc(p.state.Pods, func(o corev1.Pod) bool { return string(o.UID) == pod.UID })
	for _, b := range p.state.Budgets {
		if b.Namespace != pod.Namespace || b.Status.DisruptionsAllowed > 0 {
			continue
		}
		s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && s.Matches(labels.Set(p.state.Pods[i].Labels)) {
			return fmt.Sprintf("pod %s/%s: the disruption budget %s allows no disruption now", pod.Namespace, pod.Name, b.Name)
		}
	}
	return ""
}

// Total returns what all nodes download, in bytes, and how long their turns take at
// least, one after the other: without what pods need to leave.
func (p *Plan) Total(soak time.Duration) (bytes int64, takes time.Duration) {
	for _, t := range p.Nodes {
		if !t.Runs {
			bytes += t.Bytes
			takes += time.Duration((t.Seconds+t.NotReady)*float64(time.Second)) + soak
		}
	}
	return bytes, takes
}
