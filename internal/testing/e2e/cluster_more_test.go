//go:build cluster

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestClusterOfTwo: pods of two nodes reach each other through flannel's vxlan,
// a node that was removed joins again as itself, and a card that was flashed
// again is the same node to the API server.
func TestClusterOfTwo(t *testing.T) {
	c := newCluster(t)
	r := clusterImage(t, "1.0", nil)
	cellar := c.join(r, "cellar", 12, c.agent())
	attic := c.join(r, "attic", 11, c.agent())
	cellar.ready()
	first := attic.ready()
	c.apply(`apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      containers:
      - {name: everywhere, image: registry.test/app:1, imagePullPolicy: Never, args: ["serve", ":8080"]}
`)
	pods := attic.running("app=everywhere", 2)
	for i, from := range pods {
		to := pods[1-i]
		attic.eventually(from.Spec.NodeName+" reaches the pod of "+to.Spec.NodeName, func() bool {
			out, err := c.kubectl("", "exec", from.Metadata.Name, "--", "/program", "get", "http://"+to.Status.PodIP+":8080")
			return err == nil && strings.Contains(out, "hello from "+to.Metadata.Name) && strings.Contains(out, "to "+from.Status.PodIP+":")
		})
	}
	attic.works("grep -x DEVTYPE=vxlan /sys/class/net/flannel.1/uevent")

	c.must("delete", "node", "attic")
	attic.run("rc-service pikelet-k3s restart")
	again := attic.ready()
	if again.Metadata.UID == first.Metadata.UID {
		t.Error("the node was not removed")
	}
	attic.off()
	flashed := c.join(r, "attic", 11, c.agent()) // with the node password of its seed
	flashed.eventually("attic is Ready in another boot", func() bool {
		n := c.node("attic")
		return n.ready() && n.Status.NodeInfo.BootID != again.Status.NodeInfo.BootID && n.Metadata.UID == again.Metadata.UID
	})
	cellar.off()
}

// TestClusterOnNodes: a node is the server of a cluster and another its agent; the
// agent becomes a server by its config.
func TestClusterOnNodes(t *testing.T) {
	c := &cluster{t: t, lan: newLAN(t)}
	if err := c.lan.ServeTime(); err != nil {
		t.Fatal(err)
	}
	r := clusterImage(t, "1.0", nil)
	// Without k3s' own archive of images there is only what tests run.
	const options = "options: {pause-image: 'registry.test/pause:1'"
	const server = options + ", flannel-backend: host-gw, disable: [coredns, local-storage, metrics-server, servicelb, traefik]}"
	cellar := c.join(r, "cellar", 12, "upgrades: {plain-http: true}\nk3s: {role: server, token: a-token, "+server+"}\n")
	// kubectl is slow on a virtual Pi: the guest asks, and not too often.
	const ready = `until kubectl get node %s -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}' | grep True; do sleep 10; done`
	cellar.works(fmt.Sprintf(ready, "cellar"))
	cellar.works("ls /var/lib/rancher/k3s/server/db/state.db")
	attic := c.join(r, "attic", 11, "k3s: {role: agent, server: 'https://10.77.0.12:6443', token: a-token, "+options+"}}\n")
	cellar.works(fmt.Sprintf(ready, "attic"))
	attic.eventually("all checks of the agent hold", func() bool { return attic.succeeds("pikeletd check") })
	cellar.eventually("all checks of the server hold", func() bool { return cellar.succeeds("pikeletd check") })
	cellar.works("kubectl create deployment web --replicas=2 --image=registry.test/app:1")
	cellar.works("until kubectl get deployment web -o jsonpath='{.status.readyReplicas}' | grep 2; do sleep 10; done")
	// The image brings the controller of rollouts: it runs on the server alone.
	cellar.works("until kubectl -n kube-system get lease pikelet-rollout -o jsonpath='{.spec.holderIdentity}' | grep cellar; " +
		"do sleep 10; done")
	c.registry()
	digest := c.publish(r)
	cellar.works("printf '%s\\n' 'apiVersion: pikelet.dev/v1alpha1' 'kind: Rollout' 'metadata: {name: lab}' " +
		"'spec: {image: \"" + registryAt + "/lab:1.0\"}' | kubectl apply -f -")
	cellar.works("until kubectl get rollout lab -o jsonpath='{.status.state} {.status.done} {.status.image}' | " +
		"grep 'Complete 2 " + registryAt + "/lab@" + digest + "'; do sleep 10; done")
	attic.works("! rc-service pikelet-rollout status")
	attic.off()
	c.configure(attic.card, "attic", 11, "k3s: {role: server, token: b-token, "+server+"}\n")
	attic = c.boot(attic.card, "attic", 11)
	attic.works(fmt.Sprintf(ready, "attic"))
}

// TestClusterNodeFromTheNetwork: a Pi without a card becomes Ready, and is the same
// node to the API server after its next boot.
func TestClusterNodeFromTheNetwork(t *testing.T) {
	c := newCluster(t)
	n := newNASIn(t, 3000, c.lan)
	r := clusterImage(t, "1.0", nil)
	c.lan.serve(r.Artifact.Dir, c.inventory("attic", "52617370", 11, c.agent()+n.volume()), "--pool", "10.77.0.50-10.77.0.99")
	rom, tap := c.lan.pi("3", 0x52617370)
	p := c.lan.bootNet(rom, tap, bigger)
	p.prompt()
	m := &member{p, c, "attic", 11}
	first := m.ready()
	m.run("reboot", "the boot server is 10.77.0.1:8069")
	m.prompt()
	m.eventually("attic is Ready in another boot", func() bool {
		n := c.node("attic")
		return n.ready() && n.Status.NodeInfo.BootID != first.Status.NodeInfo.BootID && n.Metadata.UID == first.Metadata.UID
	})
}

// TestClusterRollsBackBrokenKubelet: a release whose kubelet does not start is
// rolled back, with the kubelet's reason in the report, and the node is Ready
// again; the data of its pods are kept.
func TestClusterRollsBackBrokenKubelet(t *testing.T) {
	c := newCluster(t)
	n := newNASIn(t, 3000, c.lan)
	n.addLUN(2, 128)
	c.registry()
	m := c.join(clusterImage(t, "1.0", nil), "attic", 11, c.agent()+n.volume())
	first := m.ready()
	mountsVolume(t, m, n)
	counted := c.counted(m)
	c.publish(clusterImage(t, "1.2", func(bin map[string][]byte) {
		bin["kubelet"] = []byte("#!/bin/sh\necho 'kubelet: the release is broken on purpose' >&2\nexit 1\n")
	}))
	m.run("pikeletd upgrade --plain-http " + registryAt + "/lab:1.2")
	m.expect("lab 1.2, slot b (trial), root verified", "lab 1.0, slot a (committed), root verified")
	m.prompt()
	m.eventually("attic is Ready in another boot", func() bool {
		n := c.node("attic")
		return n.ready() && n.Status.NodeInfo.BootID != first.Status.NodeInfo.BootID
	})
	m.run("pikeletd status", "upgrade to 1.2 in slot b", "the release is broken on purpose")
	m.running("app=counter", 1)
	if now := c.counted(m); now < counted {
		t.Errorf("the pod had counted to %d, and to %d after the way back", counted, now)
	}
}

// TestClusterOfFakes: fifty nodes that are only objects run a Deployment, whose
// pods leave a node that is drained, within the Deployment's disruption budget.
func TestClusterOfFakes(t *testing.T) {
	c := newCluster(t)
	if _, err := c.NewFakes(t.Context(), 50); err != nil {
		t.Fatal(err)
	}
	c.apply(web(50, 49))
	c.must("rollout", "status", "deployment/web", "--timeout=5m")
	c.must("drain", "fake-1", "--ignore-daemonsets", "--timeout=5m")
	if !c.node("fake-1").Spec.Unschedulable {
		t.Error("the node is not cordoned")
	}
	for _, p := range c.pods("app=web") {
		if p.Spec.NodeName == "fake-1" {
			t.Errorf("%s is still on fake-1", p.Metadata.Name)
		}
	}
}
