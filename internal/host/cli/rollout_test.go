package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pikelet-os/pikelet/internal/host/rollouts"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/v1alpha1"
)

// TestReadRollout: the first rollout of a file, strictly, or what the file lacks.
func TestReadRollout(t *testing.T) {
	const head = "apiVersion: pikelet.dev/v1alpha1\nkind: Rollout\nmetadata: {name: lab}\n"
	for name, c := range map[string]struct{ text, want string }{
		"one":                 {head + "spec: {image: registry.example/lab@sha256:1, soak: 5m}\n", ""},
		"behind another kind": {"apiVersion: v1\nkind: Namespace\n---\n" + head + "spec: {image: a@b}\n", ""},
		"no rollout":          {"apiVersion: v1\nkind: Namespace\n", "holds no rollout"},
		"empty":               {"", "holds no rollout"},
		"a misspelt field":    {head + "spec: {imag: a@b}\n", `unknown field "imag"`},
		"no YAML":             {"{", "error converting YAML"},
		"too large":           {head + "#" + strings.Repeat(" ", maxRolloutFile), "more than 3145728 bytes"},
		"a bad duration":      {head + "spec: {image: a@b, soak: soon}\n", `invalid duration "soon"`},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "rollout.yaml")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := readRollout(file)
			switch {
			case c.want == "" && (err != nil || r.Name != "lab"):
				t.Errorf("got %+v, %v", r, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want the file and %q", err, c.want)
			}
		})
	}
}

// oneImage is a registry of one image, of which no node has an earlier one.
type oneImage struct{ *image.Manifest }

func (i oneImage) Image(_ context.Context, ref string) (*image.Manifest, error) {
	if strings.HasSuffix(ref, "@sha256:new") {
		return i.Manifest, nil
	}
	return nil, errors.New("not there")
}

func (oneImage) Patch(context.Context, string, string) (int64, error) { return 0, nil }

// TestShowPlan: a plan as people read it, without what a cluster could put onto a
// terminal.
func TestShowPlan(t *testing.T) {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "attic", UID: "attic"}}
	n.Annotations = map[string]string{rollout.ImageKey: rollout.Image{Stream: "lab", Release: "1.0", Digest: "sha256:old"}.Encode()}
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "bare\x1b[31m"}}
	p.Spec.NodeName = "attic"
	s := rollouts.State{Nodes: []corev1.Node{n, {ObjectMeta: metav1.ObjectMeta{Name: "nas"}}}, Pods: []corev1.Pod{p}}
	r := rollouts.New("lab", v1alpha1.RolloutSpec{Image: "registry.example/lab@sha256:new"})
	m := &image.Manifest{Stream: "lab", Release: "1.1", Kubernetes: "v1.35.1", SlotSize: 256 << 20,
		Files: []image.File{{Name: "root.squashfs", Size: 110 << 20}}}
	var out bytes.Buffer
	a := newApp("dev", strings.NewReader(""), &out, &out)
	if err := a.showPlan(t.Context(), r, s, oneImage{m}); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/plan.txt")
	if err != nil || out.String() != string(want) {
		t.Errorf("testdata/plan.txt: %v; got\n%s", err, out.String())
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("the plan has an escape sequence")
	}
}

// TestClusterUpgradeArguments: a cluster is upgraded whole, and hosts are for ssh.
func TestClusterUpgradeArguments(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"attic", "lab:1", "--kubeconfig", "k"}, "want a reference alone with --kubeconfig, got 2 arguments"},
		{[]string{"lab:1", "--kubeconfig", "k", "--drill"}, "--drill is for hosts, without --kubeconfig"},
		{[]string{"lab:1", "--kubeconfig", "k", "--parallel", "2"}, "--parallel is for hosts, without --kubeconfig"},
		{[]string{"lab:1", "--kubeconfig", "k", "--ssh-config", "f"}, "--ssh-config is for hosts, without --kubeconfig"},
		{[]string{"attic", "lab:1", "--soak", "5m"}, "--soak is for a cluster, with --kubeconfig"},
		{[]string{"attic", "lab:1", "--key", "k.pub"}, "--key is for a cluster, with --kubeconfig"},
		{[]string{"attic", "a b", "--wait", "5m", "--again", "--dry-run", "--plain-http", "--json"}, "is not a reference"},
		{[]string{"./out", "--kubeconfig", "k"}, "./out is not a registry's reference"},
		{[]string{"lab:1"}, "want hosts and a reference, got 1 arguments"},
	} {
		var out bytes.Buffer
		status := Run(t.Context(), "dev", append([]string{"upgrade"}, c.args...), strings.NewReader(""), &out, &out)
		if status != exitUsage || !strings.Contains(out.String(), c.want) {
			t.Errorf("%q: exit status %d\n%s", c.args, status, out.String())
		}
	}
	var out bytes.Buffer
	status := Run(t.Context(), "dev", []string{"rollout", "status", "--kubeconfig", t.TempDir() + "/none"}, strings.NewReader(""), &out, &out)
	if status != exitFailed || !strings.Contains(out.String(), "reading the kubeconfig: stat ") || !strings.Contains(out.String(), "hint: ") {
		t.Errorf("no kubeconfig: exit status %d\n%s", status, out.String())
	}
}

// TestClusterOptions: what the flags make of a rollout.
func TestClusterOptions(t *testing.T) {
	o := clusterOptions{MaxUnavailable: "25%", Selector: "site=attic"}
	r, err := o.rollout("registry.example/pi/Home_Lab@sha256:1", &upgradeOptions{})
	if err != nil || r.Name != "home-lab" || r.Spec.MaxUnavailable.String() != "25%" || r.Spec.NodeSelector.MatchLabels["site"] != "attic" {
		t.Errorf("got %+v, %v", r, err)
	}
	o.Selector = "site in"
	if _, err := o.rollout("registry.example/lab@sha256:1", &upgradeOptions{}); !errors.As(err, new(usageError)) {
		t.Errorf("got %v, want a usage error", err)
	}
}
