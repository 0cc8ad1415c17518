//go:build cluster

package e2e

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/controller"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/v1alpha1"
	"github.com/pikelet-os/pikelet/overlays"
)

// controller starts a controller of rollouts in the network, with the credentials
// of a file.
func (c *cluster) controller(kubeconfig string) *exec.Cmd {
	c.t.Helper()
	program, err := filepath.Abs("../../../build/pikelet-rollout")
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := c.lan.Command(c.lan.Name, program, "--kubeconfig", kubeconfig)
	cmd.Stderr = c.t.Output()
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

// deployed gives a controller the rights of the example's Deployment, and no others.
// It returns a file with them.
func (c *cluster) deployed() (kubeconfig string) {
	c.t.Helper()
	example, err := os.ReadFile("../../../examples/rollout-deployment/controller.yaml")
	if err != nil {
		c.t.Fatal(err)
	}
	rights, _, found := strings.Cut(string(example), "---\napiVersion: apps/v1\n")
	if !found {
		c.t.Fatal("the example has no Deployment")
	}
	c.apply(rights)
	token := strings.TrimSpace(c.must("-n", "kube-system", "create", "token", "pikelet-rollout", "--duration=2h"))
	all, err := os.ReadFile(c.Kubeconfig())
	if err != nil {
		c.t.Fatal(err)
	}
	kubeconfig = filepath.Join(c.t.TempDir(), "kubeconfig")
	writeFile(c.t, kubeconfig, string(all), 0o600)
	c.must("--kubeconfig", kubeconfig, "config", "set-credentials", "deployed", "--token="+token)
	c.must("--kubeconfig", kubeconfig, "config", "set-context", "--current", "--user=deployed")
	if out, err := c.kubectl("", "--kubeconfig", kubeconfig, "get", "secrets", "-A"); err == nil {
		c.t.Fatalf("the controller may read secrets:\n%s", out)
	}
	return kubeconfig
}

// elected returns which controller works.
func (c *cluster) elected() string {
	c.t.Helper()
	var lease struct {
		Spec struct{ HolderIdentity string }
	}
	c.get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/"+controller.Election, &lease)
	return lease.Spec.HolderIdentity
}

// losesLease has a controller stand still until another one was elected: when it goes
// on it ends, and says why.
func (c *cluster) losesLease(cmd *exec.Cmd, kubeconfig string) {
	c.t.Helper()
	was := c.elected()
	stop := func(s syscall.Signal) {
		if err := cmd.Process.Signal(s); err != nil {
			c.t.Fatal(err)
		}
	}
	stop(syscall.SIGSTOP)
	c.controller(kubeconfig)
	c.until("another controller is elected", func() bool { return c.elected() != was })
	stop(syscall.SIGCONT)
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		c.t.Errorf("the controller without the lease ended with %v, want exit status 1", err)
	}
}

// define has the API know rollouts.
func (c *cluster) define() {
	c.t.Helper()
	o, err := overlays.Find("rollout", "", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.apply(string(o.Manifests["pikelet.dev_rollouts.yaml"]))
	c.must("wait", "--for=condition=Established", "crd/rollouts.pikelet.dev", "--timeout=60s")
}

// rollout returns what the API has of a rollout.
func (c *cluster) rollout(name string) (r v1alpha1.Rollout) {
	c.t.Helper()
	c.get("/apis/pikelet.dev/v1alpha1/rollouts/"+name, &r)
	return r
}

// until waits until done reports true, as long as the API answers.
func (c *cluster) until(what string, done func() bool) {
	c.t.Helper()
	for start := time.Now(); !done(); time.Sleep(500 * time.Millisecond) {
		if time.Since(start) > tooLong {
			out, _ := c.kubectl("", "get", "rollouts", "-o", "yaml")
			c.t.Fatalf("%s: never\n%s", what, out)
		}
	}
}

// web is a Deployment of pods on fake nodes, of which some must stay available.
func web(replicas, available int) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: registry.test/app:1}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: %d, selector: {matchLabels: {app: web}}}
`, replicas, available)
}

// TestClusterRolloutOfFakes: a rollout brings a release to a server and five agents,
// through a disruption budget and over the death of its controller; a bad one halts
// at the first node; what the API server can refuse, it refuses.
func TestClusterRolloutOfFakes(t *testing.T) {
	c := newCluster(t)
	c.define()
	f := newFleet(t, c, 6, "0")
	f.bad = digestOf("2")
	c.must("cordon", "fake-3") // by somebody, and for a reason
	c.apply(web(7, 7))
	c.must("scale", "deployment/web", "--replicas=8")
	c.must("rollout", "status", "deployment/web", "--timeout=5m")
	const form = `apiVersion: pikelet.dev/v1alpha1
kind: Rollout
metadata: {name: lab}
spec: {image: "registry.test/lab@%s", maxUnavailable: %s, soak: 3s}
`
	for _, bad := range [][2]string{{"sha256:1", "1"}, {digestOf("1"), "0"}, {digestOf("1"), "0%"}, {"latest", "1"}} {
		out, err := c.kubectl(fmt.Sprintf(form, bad[0], bad[1]), "apply", "-f", "-")
		if err == nil || !strings.Contains(out, "is invalid: spec") {
			t.Errorf("%q: %v\n%s", bad, err, out)
		}
	}
	kubeconfig := c.deployed()
	first := c.controller(kubeconfig)
	c.apply(fmt.Sprintf(form, digestOf("1"), "2"))
	c.until("two nodes are upgraded", func() bool { return c.rollout("lab").Status.Done >= 2 })
	first.Process.Kill()
	first.Wait()
	second := c.controller(kubeconfig)
	c.until("the rollout is complete", func() bool { return c.rollout("lab").Status.State == string(rollout.Complete) })
	got := f.restarted()
	if len(got) != 6 || got[0] != "fake-1 1" {
		t.Errorf("restarts: %q, want each node once, the server first", got)
	}
	c.schedulable("fake-3")
	if out := c.must("get", "rollouts"); !strings.Contains(out, "Complete") {
		t.Errorf("kubectl get rollouts printed\n%s", out)
	}

	c.losesLease(second, kubeconfig)
	c.apply(fmt.Sprintf(form, f.bad, "2"))
	c.until("the rollout halts", func() bool { return c.rollout("lab").Status.State == string(rollout.Halted) })
	if r := c.rollout("lab"); r.Status.Reason != "fake-1: volume: it never comes" {
		t.Errorf("the reason is %q", r.Status.Reason)
	}
	if got := f.restarted(); len(got) != 7 {
		t.Errorf("restarts: %q, want one more", got)
	}
	c.until("the node that went back is schedulable", func() bool { return !c.node("fake-1").Spec.Unschedulable })
	c.schedulable("fake-3")
	c.must("delete", "rollout", "lab", "--timeout=2m")
}

// schedulable checks that all nodes are, but one.
func (c *cluster) schedulable(but string) {
	c.t.Helper()
	for i := range 6 {
		name := fmt.Sprintf("fake-%d", i+1)
		n := c.node(name)
		if n.Spec.Unschedulable != (name == but) || n.Metadata.Annotations[rollout.CordonKey] != "" {
			c.t.Errorf("%s: unschedulable %v, cordoned by %q", name, n.Spec.Unschedulable, n.Metadata.Annotations[rollout.CordonKey])
		}
	}
}

// noneCordoned checks that no rollout keeps a node of n unschedulable.
func (c *cluster) noneCordoned(n int) {
	c.t.Helper()
	for i := range n {
		name := fmt.Sprintf("fake-%d", i+1)
		if o := c.node(name); o.Spec.Unschedulable || o.Metadata.Annotations[rollout.CordonKey] != "" {
			c.t.Errorf("%s: unschedulable %v, cordoned by %q", name, o.Spec.Unschedulable, o.Metadata.Annotations[rollout.CordonKey])
		}
	}
}

// TestClusterRollout: two nodes of ours take a release from a rollout, one after the
// other, under pods that are asked all the time; each answers with its kubelet's own
// rights, which reach no other node.
func TestClusterRollout(t *testing.T) {
	c := newCluster(t)
	c.define()
	c.registry()
	r := clusterImage(t, "1.0", nil)
	config := c.agent() + "upgrades: {plain-http: true}\n"
	attic, cellar := c.join(r, "attic", 11, config), c.join(r, "cellar", 12, config)
	attic.ready()
	cellar.ready()
	c.apply(`apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 10
      affinity:
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - {weight: 100, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: web}}}}
      containers:
      - name: web
        image: registry.test/app:1
        imagePullPolicy: Never
        args: ["serve", ":8080"]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 2}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}
`)
	attic.running("app=web", 2)
	// kubectl would read the other Node first, which is refused as well.
	attic.run(`echo '{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "cellar", "annotations": {"`+rollout.AnswerKey+`": "x"}}}' | `+
		"kubectl --kubeconfig /var/lib/rancher/k3s/agent/kubelet.kubeconfig replace --raw /api/v1/nodes/cellar -f -", "is not allowed to modify")

	digest := c.publish(clusterImage(t, "1.1", nil))
	c.controller(c.Kubeconfig())
	cordoned := c.watchCordons("attic", "cellar")
	asked, failed, stop := c.asks("http://"+address(11)+":30080", "http://"+address(12)+":30080")
	c.apply("apiVersion: pikelet.dev/v1alpha1\nkind: Rollout\nmetadata: {name: lab}\n" +
		"spec: {image: '" + registryAt + "/lab@" + digest + "', soak: 5s}\n")
	attic.eventually("the rollout is complete or halted", func() bool {
		s := c.rollout("lab").Status.State
		return s == string(rollout.Complete) || s == string(rollout.Halted)
	})
	stop()
	if s := c.rollout("lab").Status; s.State != string(rollout.Complete) || s.Done != 2 {
		t.Fatalf("the rollout is %+v\n%s", s, c.must("describe", "nodes"))
	}
	seconds := cordoned()
	t.Logf("requests: %d, failed: %d; unschedulable for %.1f s at most", asked(), failed(), seconds)
	if *figures != "" {
		writeFile(t, *figures, fmt.Sprintf(`{"drain_to_uncordon_seconds": %g, "failed_requests_during_rollout": %d}`, seconds, failed()), 0o644)
	}
	if asked() == 0 || failed() > asked()/20 {
		t.Errorf("of %d requests %d failed", asked(), failed())
	}
	for _, name := range []string{"attic", "cellar"} {
		n := c.node(name)
		if n.Spec.Unschedulable || !n.ready() || !strings.HasPrefix(n.Status.NodeInfo.OSImage, "Pikelet lab 1.1") {
			t.Errorf("%s: %+v", name, n)
		}
		if out := c.must("describe", "node", name); !strings.Contains(out, rollout.Condition) || !strings.Contains(out, "UpgradeCommitted") {
			t.Errorf("kubectl describe node %s printed\n%s", name, out)
		}
	}
}

// figures is where TestClusterRollout writes what it measured.
var figures = flag.String("figures", "", "a file for the figures of TestClusterRollout, as JSON")

// watchCordons watches nodes until what it returns is called: that returns how long a
// rollout had one of them unschedulable at most, in seconds.
func (c *cluster) watchCordons(names ...string) (longest func() float64) {
	var most float64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		since := map[string]time.Time{}
		for {
			select {
			case <-done:
				return
			case <-time.After(500 * time.Millisecond):
			}
			for _, name := range names {
				var n struct {
					Metadata struct{ Annotations map[string]string }
				}
				if b, err := c.Get(c.t.Context(), "/api/v1/nodes/"+name); err != nil || json.Unmarshal(b, &n) != nil {
					continue
				}
				begin, known := since[name]
				switch cordoned := n.Metadata.Annotations[rollout.CordonKey] != ""; {
				case cordoned && !known:
					since[name] = time.Now()
				case !cordoned && known:
					most = max(most, time.Since(begin).Seconds())
					delete(since, name)
				}
			}
		}
	}()
	stop := sync.OnceFunc(func() {
		close(done)
		<-ended
	})
	c.t.Cleanup(stop)
	return func() float64 {
		stop()
		return most
	}
}

// asks asks web servers all the time until stop is called: a request fails where
// none of them answers.
func (c *cluster) asks(urls ...string) (asked, failed func() int, stop func()) {
	var all, bad atomic.Int64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(500 * time.Millisecond):
			}
			all.Add(1)
			if !slices.ContainsFunc(urls, func(url string) bool {
				return c.lan.Command(c.lan.Name, "curl", "-sf", "--max-time", "5", url).Run() == nil
			}) {
				bad.Add(1)
			}
		}
	}()
	stop = sync.OnceFunc(func() {
		close(done)
		<-ended
	})
	c.t.Cleanup(stop)
	return func() int { return int(all.Load()) }, func() int { return int(bad.Load()) }, stop
}
