package cli

import (
	"context"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pikelet-os/pikelet/internal/host/rollouts"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/v1alpha1"
)

// clusterOptions say how a cluster is upgraded.
type clusterOptions struct {
	image          imageOptions
	Kubeconfig     string
	Name           string
	Selector       string
	MaxUnavailable string
	Soak           time.Duration
	DrainTimeout   time.Duration
	Force          bool
	DeleteLocal    bool
}

func (o *clusterOptions) addFlags(c *cobra.Command, a *app) {
	o.image.addFlags(c, a)
	c.Flags().Lookup("plain-http").Usage = "use HTTP without TLS for the registry; hosts that are named do so too"
	f := c.Flags()
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "upgrade the cluster that `FILE` names, with your credentials in it")
	f.StringVar(&o.Name, "name", "", "`NAME` of the rollout of the cluster (default: what the reference is called)")
	f.StringVar(&o.Selector, "selector", "", "`LABELS` of the cluster's nodes to upgrade, such as site=attic (default: all that run Pikelet)")
	f.StringVar(&o.MaxUnavailable, "max-unavailable", "1",
		"`NUMBER` of the cluster's agents to upgrade at the same time, or a part such as 25%")
	f.DurationVar(&o.Soak, "soak", 2*time.Minute, "how long a node of the cluster must be Ready before the next one's turn")
	f.DurationVar(&o.DrainTimeout, "drain-timeout", 15*time.Minute, "how long pods may take to leave a node of the cluster")
	f.BoolVar(&o.Force, "force", false, "evict pods of the cluster too that no controller makes anew")
	f.BoolVar(&o.DeleteLocal, "delete-emptydir-data", false, "evict pods of the cluster too that keep data in an emptyDir")
}

// badInName is what the name of an object may not hold
// (https://kubernetes.io/docs/concepts/overview/working-with-objects/names/).
var badInName = regexp.MustCompile(`[^a-z0-9-]+`)

// rollout returns the rollout of an image, with its digest.
func (o *clusterOptions) rollout(ref string, u *upgradeOptions) (*v1alpha1.Rollout, error) {
	name := o.Name
	if name == "" {
		name = strings.Trim(badInName.ReplaceAllString(strings.ToLower(path.Base(registry.Name(ref))), "-"), "-")
	}
	most := intstr.Parse(o.MaxUnavailable)
	spec := v1alpha1.RolloutSpec{
		Image: ref, MaxUnavailable: &most, Soak: metav1.Duration{Duration: o.Soak}, Deadline: metav1.Duration{Duration: u.Wait}, Again: u.Again,
		FetchTimeout: metav1.Duration{Duration: fetchTimeout},
		Drain:        v1alpha1.Drain{Timeout: metav1.Duration{Duration: o.DrainTimeout}, Force: o.Force, DeleteEmptyDirData: o.DeleteLocal},
	}
	if o.Selector != "" {
		s, err := metav1.ParseToLabelSelector(o.Selector)
		if err != nil {
			return nil, usagef("--selector %q: %w", o.Selector, err)
		}
		spec.NodeSelector = s
	}
	return rollouts.New(name, spec), nil
}

// resolve returns a registry's reference with the digest of the manifest of the image
// that another one names.
func (o *imageOptions) resolve(ctx context.Context, ref string) (string, error) {
	if _, _, err := o.target(ref); err != nil {
		return "", err
	}
	img, err := o.open(ctx, ref)
	if err != nil {
		return "", err
	}
	return registry.Name(ref) + "@" + img.Digest, nil
}

// fetchTimeout is how long a node may take to bring an image: a day, for those
// behind a slow line.
const fetchTimeout = 24 * time.Hour

// runClusterUpgrade upgrades a cluster, or shows what that would do.
func runClusterUpgrade(ctx context.Context, ref string, u *upgradeOptions, a *app) error {
	o := &u.cluster
	pinned, err := o.image.resolve(ctx, ref)
	if err != nil {
		return err
	}
	r, err := o.rollout(pinned, u)
	if err != nil {
		return err
	}
	c, cfg, err := rollouts.Connect(o.Kubeconfig)
	if err != nil {
		return err
	}
	if u.DryRun {
		s, err := rollouts.Look(ctx, c, cfg)
		if err != nil {
			return err
		}
		return a.showPlan(ctx, r, s, &imagesOf{o: &o.image})
	}
	last := ""
	desk := rollouts.Desk{Client: c, Config: cfg, Now: time.Now, Log: a.log, Resolve: o.image.resolve, Shown: func(r *v1alpha1.Rollout) {
		if text := describeRollout(r); text != last {
			last = text
			a.log.Info(text)
		}
	}}
	err = desk.Upgrade(ctx, r)
	if now, found := rollouts.Find(context.WithoutCancel(ctx), c, r.Name); found == nil {
		a.result(rolloutFields(now), describeRollout(now))
	}
	return err
}
