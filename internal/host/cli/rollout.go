package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/pikelet-os/pikelet/internal/host/bootserver"
	"github.com/pikelet-os/pikelet/internal/host/rollouts"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/v1alpha1"
)

func newRollout(a *app) *cobra.Command {
	var kubeconfig string
	c := group(&cobra.Command{
		Use:   "rollout",
		Short: "Look at the rollouts of a cluster, pause, resume and undo them",
		Long: `Look at the rollouts of a cluster, pause, resume and undo them. A rollout brings a
release to the nodes of a cluster, one after the other; kubectl apply makes one, and
the overlay rollout has the cluster's servers carry it out.

A NAME may be left out where there is one rollout.`,
		GroupID: groupNodes,
	})
	c.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", "", "`FILE` with the cluster's address and your credentials "+
		"(default: what kubectl takes: KUBECONFIG, or .kube/config)")
	c.AddCommand(newRolloutStatus(a, &kubeconfig), newRolloutPlan(a, &kubeconfig), newRolloutPause(a, &kubeconfig, true),
		newRolloutPause(a, &kubeconfig, false), newRolloutUndo(a, &kubeconfig))
	return c
}

// atMostOne accepts a name, or none.
func atMostOne(_ *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("want the name of one rollout at most, got %d arguments", len(args))
	}
	return nil
}

// nameOf returns the name among the arguments, "" for none.
func nameOf(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func newRolloutStatus(a *app, kubeconfig *string) *cobra.Command {
	return &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show how far rollouts are, and why they do not go on",
		Example: `  pikelet rollout status
  pikelet rollout status homelab --kubeconfig k3s.yaml`,
		Args: atMostOne,
		RunE: func(c *cobra.Command, args []string) error {
			k, _, err := rollouts.Connect(*kubeconfig)
			if err != nil {
				return err
			}
			var list []v1alpha1.Rollout
			if name := nameOf(args); name == "" {
				list, err = rollouts.List(c.Context(), k)
			} else if one, found := rollouts.Find(c.Context(), k, name); found == nil {
				list = append(list, *one)
			} else {
				err = found
			}
			if err != nil {
				return err
			}
			for i := range list {
				a.result(rolloutFields(&list[i]), describeRollout(&list[i]))
			}
			return nil
		},
	}
}

// rolloutFields are those of a rollout for programs.
func rolloutFields(r *v1alpha1.Rollout) map[string]any {
	return map[string]any{"name": r.Name, "image": r.Spec.Image, "state": r.Status.State, "reason": r.Status.Reason,
		"done": r.Status.Done, "total": r.Status.Total, "turns": r.Status.Turns, "pause": r.Spec.Pause}
}

// describeRollout returns a rollout for people: a line, and one for each node under
// way.
func describeRollout(r *v1alpha1.Rollout) string {
	var b strings.Builder
	state := r.Status.State
	if state == "" {
		state = "not seen by a controller yet"
	}
	fmt.Fprintf(&b, "%s: %s, %d of %d nodes run %s", clean(r.Name), state, r.Status.Done, r.Status.Total, clean(r.Spec.Image))
	if r.Status.Reason != "" {
		fmt.Fprintf(&b, "\n  %s", clean(r.Status.Reason))
	}
	for _, t := range r.Status.Turns {
		fmt.Fprintf(&b, "\n  %s: %s since %s", clean(t.Node), t.Step, t.Since.UTC().Format(time.RFC3339))
		if t.Reason != "" {
			fmt.Fprintf(&b, ": %s", clean(t.Reason))
		}
	}
	return b.String()
}

func newRolloutPause(a *app, kubeconfig *string, pause bool) *cobra.Command {
	use, short, done := "resume", "Have a paused rollout go on", "goes on"
	if pause {
		use, short, done = "pause", "Have a rollout begin no further node's turn", "is paused; nodes that restart already come to their end"
	}
	return &cobra.Command{
		Use:     use + " [NAME]",
		Short:   short,
		Example: "  pikelet rollout " + use + " homelab",
		Args:    atMostOne,
		RunE: func(c *cobra.Command, args []string) error {
			k, _, err := rollouts.Connect(*kubeconfig)
			if err != nil {
				return err
			}
			r, changed, err := rollouts.Pause(c.Context(), k, nameOf(args), pause)
			if err != nil {
				return err
			}
			if !changed {
				done = "was so already"
			}
			a.result(map[string]any{"name": r.Name, "pause": pause, "changed": changed}, "rollout "+clean(r.Name)+" "+done)
			return nil
		},
	}
}

func newRolloutUndo(a *app, kubeconfig *string) *cobra.Command {
	return &cobra.Command{
		Use:   "undo [NAME]",
		Short: "Have a rollout bring back the image that all nodes ran before",
		Long: `Have a rollout bring back the image that all nodes ran before: of a rollout that did
not complete its image, the one that it completed last. Nodes go back to a lower
release only with a signed statement: see pikelet promote --allow-downgrade.

Where the rollout is kept in git, change its image there: what applies it would undo
this.`,
		Example: "  pikelet rollout undo homelab",
		Args:    atMostOne,
		RunE: func(c *cobra.Command, args []string) error {
			k, _, err := rollouts.Connect(*kubeconfig)
			if err != nil {
				return err
			}
			r, err := rollouts.Undo(c.Context(), k, nameOf(args))
			if err != nil {
				return err
			}
			a.result(map[string]string{"name": r.Name, "image": r.Spec.Image}, "rollout "+clean(r.Name)+" brings "+clean(r.Spec.Image))
			return nil
		},
	}
}

func newRolloutPlan(a *app, kubeconfig *string) *cobra.Command {
	var o imageOptions
	c := &cobra.Command{
		Use:   "plan [NAME | FILE]",
		Short: "Show what a rollout would do to each node; nothing is changed",
		Long: `Show what a rollout of the cluster, or one of a YAML file that is not applied yet,
would do to each node: how the image comes there, which pods are evicted, and what
would halt the rollout or have it wait. Nothing is changed.`,
		Example: `  pikelet rollout plan
  pikelet rollout plan cluster/rollout.yaml`,
		Args: atMostOne,
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			k, cfg, err := rollouts.Connect(*kubeconfig)
			if err != nil {
				return err
			}
			var r *v1alpha1.Rollout
			if name := nameOf(args); strings.ContainsAny(name, "./") {
				r, err = readRollout(name)
			} else {
				r, err = rollouts.Find(ctx, k, name)
			}
			if err != nil {
				return err
			}
			s, err := rollouts.Look(ctx, k, cfg)
			if err != nil {
				return err
			}
			if r.Spec.Image, err = o.resolve(ctx, r.Spec.Image); err != nil {
				return err
			}
			return a.showPlan(ctx, r, s, &imagesOf{o: &o})
		},
	}
	o.addFlags(c, a)
	return c
}

// maxRolloutFile bounds a file with a rollout, bytes: that is what an API server
// takes.
const maxRolloutFile = 3 << 20

// readRollout reads the first rollout of a YAML file.
func readRollout(name string) (*v1alpha1.Rollout, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRolloutFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxRolloutFile {
		return nil, fmt.Errorf("%s has more than %d bytes, which is more than an API server takes", name, maxRolloutFile)
	}
	for _, document := range strings.Split("\n"+string(b), "\n---") {
		r := &v1alpha1.Rollout{}
		if err := yaml.Unmarshal([]byte(document), &r.TypeMeta); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if r.Kind != "Rollout" || r.APIVersion != v1alpha1.GroupVersion.String() {
			continue
		}
		if err := yaml.UnmarshalStrict([]byte(document), r); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return r, nil
	}
	return nil, hint.Withf(fmt.Errorf("%s holds no rollout", name), "want apiVersion: %s and kind: Rollout", v1alpha1.GroupVersion)
}

// imagesOf reads images from their registry, each once.
type imagesOf struct {
	o      *imageOptions
	opened map[string]*registry.Published
}

func (s *imagesOf) open(ctx context.Context, ref string) (*registry.Published, error) {
	if img := s.opened[ref]; img != nil {
		return img, nil
	}
	img, err := s.o.open(ctx, ref)
	if err != nil {
		return nil, err
	}
	if s.opened == nil {
		s.opened = map[string]*registry.Published{}
	}
	s.opened[ref] = img.Published
	return img.Published, nil
}

// Image implements rollouts.Source.
func (s *imagesOf) Image(ctx context.Context, ref string) (*image.Manifest, error) {
	img, err := s.open(ctx, ref)
	if err != nil {
		return nil, err
	}
	return img.Manifest, nil
}

// Patch implements rollouts.Source.
func (s *imagesOf) Patch(ctx context.Context, ref, from string) (int64, error) {
	img, err := s.open(ctx, ref)
	if err != nil {
		return 0, err
	}
	p, err := registry.FindPatch(ctx, img, from, img.Trusted())
	if err != nil || p == nil {
		return 0, err
	}
	return p.Blob.Size, nil
}

// showPlan prints what a rollout would do. It fails where something would halt it.
func (a *app) showPlan(ctx context.Context, r *v1alpha1.Rollout, s rollouts.State, images rollouts.Source) error {
	p, err := rollouts.MakePlan(ctx, r, s, images)
	if err != nil {
		return err
	}
	if a.json {
		a.result(p, "")
		return nil
	}
	brings := ""
	if p.Kubernetes != "" {
		brings = ", Kubernetes " + p.Kubernetes
	}
	fmt.Fprintf(a.out, "%s: release %s%s, %s\n", clean(p.Rollout), p.Release, brings, clean(p.Image))
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tROLE\tRUNS\tBY\tDOWNLOADS\tEVICTS\tFREE IN SLOT\tFIRMWARE\tNOT READY")
	for _, t := range p.Nodes {
		fmt.Fprintln(w, strings.Join(planRow(t), "\t"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, t := range p.Nodes {
		for _, pod := range t.Moves {
			fmt.Fprintf(a.out, "%s evicts %s\n", clean(t.Node), clean(pod))
		}
	}
	problems := 0
	for _, t := range p.Nodes {
		problems += len(t.Problems)
		for _, text := range t.Problems {
			fmt.Fprintf(a.out, "%s: problem: %s\n", clean(t.Node), clean(text))
		}
	}
	for _, o := range p.Others {
		fmt.Fprintf(a.out, "%s takes no part: %s\n", clean(o.Node), o.Reason)
	}
	bytes, takes := p.Total(r.Spec.Soak.Duration)
	fmt.Fprintf(a.out, "%s to download; %v at least, without what pods need to leave; %d problems\n",
		size(bytes), takes.Round(time.Second), problems)
	return nil
}

// clean returns a text of a cluster without terminal escape sequences.
func clean(text string) string { return bootserver.Printable(text, maxShown) }

// size returns a number of bytes for people.
func size(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// planRow returns the columns of a node's turn.
func planRow(t rollouts.Turn) []string {
	role, firmware, free, notReady := "agent", "same", "?", "?"
	if t.Server {
		role = "server"
	}
	if t.Runs {
		return []string{clean(t.Node), role, t.Release, "nothing to do", "", "", "", "", ""}
	}
	if t.Firmware {
		firmware = "changes"
	}
	if t.Headroom != nil {
		free = size(*t.Headroom)
	} else {
		firmware = "?"
	}
	if t.NotReady > 0 {
		notReady = fmt.Sprintf("%.0f s", t.NotReady)
	}
	way := t.Way
	if way == "" {
		way = "?"
	}
	return []string{clean(t.Node), role, t.Release, way, fmt.Sprintf("%s, %.0f s", size(t.Bytes), t.Seconds),
		fmt.Sprintf("%d pods", len(t.Moves)), free, firmware, notReady}
}
