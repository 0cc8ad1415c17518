//go:build cluster

package e2e

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestClusterNode is the life of an agent: from a fresh card, with its volume on
// a NAS, to Ready with the container images of its own image alone; pods of all
// kinds; servers that go away and come back; an upgrade.
func TestClusterNode(t *testing.T) {
	c := newCluster(t)
	n := newNASIn(t, 3000, c.lan)
	n.addLUN(2, 128)
	r := c.registry()
	r.push("words:1")
	config := c.agent() + mirrored + n.volume()
	m := c.join(clusterImage(t, "1.0", nil), "attic", 11, config)
	for _, story := range []struct {
		name string
		tell func(t *testing.T, m *member)
	}{
		{"becomes Ready", becomesReady},
		{"runs pods", runsPods},
		{"serves pods", servesPods},
		{"resolves names", resolvesNames},
		{"mounts volumes of the NAS", func(t *testing.T, m *member) { mountsVolume(t, m, n) }},
		{"outlives the NAS", func(t *testing.T, m *member) { outlives(t, m, n.stop, n.start) }},
		{"outlives the API server", func(t *testing.T, m *member) { outlives(t, m, c.Stop, c.resume) }},
		{"takes no kubelet newer than its API server", refusesNewer},
		{"outlives the registry", func(t *testing.T, m *member) { outlivesRegistry(t, m, r) }},
		{"upgrades under pods", func(t *testing.T, m *member) { upgradesUnderPods(t, m, config) }},
	} {
		if !t.Run(story.name, func(t *testing.T) { story.tell(t, m.in(t)) }) {
			t.Fatal("the next need this one")
		}
	}
}

// in returns a member whose failures are a subtest's.
func (m *member) in(t *testing.T) *member {
	p, c := *m.pi, *m.c
	p.t, c.t = t, t
	return &member{&p, &c, m.name, m.number}
}

// resume starts the API server again.
func (c *cluster) resume() {
	c.t.Helper()
	if err := c.Resume(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
}

// addLUN gives the target one more LUN.
func (n *nas) addLUN(lun int, mib int64) {
	n.t.Helper()
	disk := fmt.Sprintf("%s.%d", n.disk, lun)
	writeFile(n.t, disk, "", 0o600)
	if err := os.Truncate(disk, mib<<20); err != nil {
		n.t.Fatal(err)
	}
	n.stop()
	n.setup = append(n.setup, []string{"--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", fmt.Sprint(lun), "-b", disk})
	n.start()
}

// volume is the part of a node config that puts its volume on LUN 1.
func (n *nas) volume() string {
	_, rest, _ := strings.Cut(n.config("", ", format: blank"), "\n")
	return rest
}

// becomesReady: the API server has the node as Ready, in this boot, and the
// node's own checks hold.
func becomesReady(t *testing.T, m *member) {
	n := m.ready()
	m.works("[ $(cat /proc/sys/kernel/random/boot_id) = " + n.Status.NodeInfo.BootID + " ]")
	if got := n.Status.NodeInfo; !strings.HasPrefix(got.OSImage, "Pikelet lab 1.0") {
		t.Errorf("the API server has it as %q", got.OSImage)
	}
	m.checksHold()
	m.eventually("the labels of the config are noted as its own", func() bool {
		n := m.c.node(m.name).Metadata
		return n.Labels["room"] == "attic" && strings.Contains(n.Annotations["pikelet.dev/labels"], "room")
	})
	m.run("pikeletd status", "cluster Ready since", "kubelet v1.34.4, server v1.34.4")
	m.works("kubectl --kubeconfig /var/lib/rancher/k3s/agent/kubelet.kubeconfig get node attic")
	m.works("ctr -a /run/k3s/containerd/containerd.sock -n k8s.io images ls | grep registry.test/pause:1")
}

// succeeds reports whether a command succeeds in the guest.
func (m *member) succeeds(command string) bool {
	m.t.Helper()
	m.run("if { " + command + "; } >/dev/null; then echo it''=true; else echo it''=false; fi")
	got, err := m.ExpectAny("it=true", "it=false")
	if err != nil {
		m.t.Fatal(err)
	}
	return got == "it=true"
}

// checksHold waits until all checks of the node hold. What does not is on the
// console.
func (m *member) checksHold() {
	m.t.Helper()
	m.eventually("all checks hold", func() bool { return m.succeeds("pikeletd check >&2") })
}

// runsPods: pods of each kind of controller run; a limit of memory kills.
func runsPods(t *testing.T, m *member) {
	text, err := os.ReadFile("testdata/cluster-pods.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m.c.apply(string(text))
	web := m.running("app=web", 1)[0].Metadata.Name
	m.running("app=everywhere", 1)
	m.running("app=ordered", 1)
	m.eventually("the eater is killed", func() bool {
		for _, p := range m.c.pods("app=eater") {
			for _, s := range p.Status.ContainerStatuses {
				return s.State.Terminated.Reason == "OOMKilled" && s.State.Terminated.ExitCode == 137
			}
		}
		return false
	})
	if got := m.c.must("exec", web, "--", "/program", "cat", "/words/greeting"); got != "hello from a ConfigMap\n" {
		t.Errorf("exec printed %q", got)
	}
	if got := m.c.must("logs", web); !strings.Contains(got, "app: serving at :8080 as web-") {
		t.Errorf("logs printed %q", got)
	}
	m.running("app=mounter", 1)
	m.eventually("the node sees what the pod mounted", func() bool {
		return m.succeeds("grep 'from the pod' /var/lib/kubelet/share/inside/from-pod")
	})
	m.running("app=driver", 1)
	if got := m.c.must("exec", "driver", "--", "/program", "enter", "iscsiadm", "-m", "session"); !strings.Contains(got, targetName) {
		t.Errorf("iscsiadm in the host's namespaces printed %q", got)
	}
}

// servesPods: a pod is reached by its service from another pod, by the node's
// port from outside, and by a port that kubectl forwards.
func servesPods(t *testing.T, m *member) {
	other := m.running("app=everywhere", 1)[0].Metadata.Name
	get := func(url string) {
		t.Helper()
		m.eventually(url, func() bool {
			out, err := m.c.kubectl("", "exec", other, "--", "/program", "get", url)
			return err == nil && strings.Contains(out, "hello from web-")
		})
	}
	var service struct{ Spec struct{ ClusterIP string } }
	m.c.get("/api/v1/namespaces/default/services/web", &service)
	get("http://" + service.Spec.ClusterIP)
	outside := func(url string) {
		t.Helper()
		out, err := m.c.lan.Command(m.c.lan.Name, "curl", "-sS", "--max-time", "20", url).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "hello from web-") {
			t.Errorf("%s: %v: %s", url, err, out)
		}
	}
	outside("http://" + address(m.number) + ":30080")
	forward := m.c.Kubectl("port-forward", "deployment/web", ":8080")
	out, err := forward.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := forward.Start(); err != nil {
		t.Fatal(err)
	}
	defer forward.Wait()
	defer forward.Process.Kill()
	line, err := bufio.NewReader(out).ReadString('\n')
	port := regexp.MustCompile(`127\.0\.0\.1:(\d+)`).FindStringSubmatch(line)
	if err != nil || port == nil {
		t.Fatalf("port-forward printed %q, %v", line, err)
	}
	outside("http://127.0.0.1:" + port[1])
}

// resolvesNames: pods find services by their names, by CoreDNS.
func resolvesNames(t *testing.T, m *member) {
	text, err := os.ReadFile("testdata/cluster-dns.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m.c.apply(string(text))
	pod := m.running("app=everywhere", 1)[0].Metadata.Name
	m.eventually("web is resolved", func() bool {
		out, err := m.c.kubectl("", "exec", pod, "--", "/program", "lookup", "web.default.svc.cluster.local")
		return err == nil && strings.HasPrefix(out, "10.43.")
	})
	m.eventually("ordered-0 is resolved", func() bool {
		out, err := m.c.kubectl("", "exec", pod, "--", "/program", "lookup", "ordered-0.ordered")
		return err == nil && strings.HasPrefix(out, "10.42.")
	})
}

// mountsVolume: a pod has a volume on a LUN of the target that holds the node's
// own; when the pod goes, the node keeps its volume, and when the pod comes back,
// its data are there.
func mountsVolume(t *testing.T, m *member, n *nas) {
	text, err := os.ReadFile("testdata/cluster-volume.yaml")
	if err != nil {
		t.Fatal(err)
	}
	words := strings.NewReplacer("PORTAL", fmt.Sprintf("10.77.0.1:%d", n.port), "TARGET", targetName, "PASSWORD", chapPassword)
	m.c.apply(words.Replace(string(text)))
	m.running("app=counter", 1)
	before := m.c.counted(m)
	m.c.must("scale", "statefulset/counter", "--replicas=0")
	m.eventually("the pod is gone", func() bool { return len(m.c.pods("app=counter")) == 0 })
	m.eventually("its volume is unmounted", func() bool { return !m.succeeds("grep -q kubernetes.io/iscsi /proc/mounts") })
	m.works("sleep 5; iscsiadm -m session | grep " + targetName)
	m.works("echo kept > /var/lib/rancher/probe && sync /var/lib/rancher/probe")
	m.c.must("scale", "statefulset/counter", "--replicas=1")
	m.running("app=counter", 1)
	if after := m.c.counted(m); after < before {
		t.Errorf("the pod had counted to %d, and to %d when it came back", before, after)
	}
}

// counted returns the highest number in the counter's file, when it has some.
func (c *cluster) counted(m *member) int {
	c.t.Helper()
	highest := 0
	m.eventually("the pod counts", func() bool {
		out, err := c.kubectl("", "exec", "counter-0", "--", "/program", "cat", "/data/count")
		for line := range strings.Lines(out) {
			n, _ := strconv.Atoi(strings.TrimSpace(line))
			highest = max(highest, n)
		}
		return err == nil && highest > 3
	})
	return highest
}

// outlives: a server goes away for more than a minute; pods run on, the node does
// not restart, and all is well again by itself when the server is back.
func outlives(t *testing.T, m *member, stop, start func()) {
	boots := m.Boots()
	before := m.c.counted(m)
	stop()
	m.works("sleep 75")
	start()
	m.ready()
	m.running("app=web", 1)
	m.running("app=counter", 1)
	m.eventually("the counter goes on", func() bool { return m.c.counted(m) > before+3 })
	m.checksHold()
	if m.Boots() != boots {
		t.Errorf("the node restarted: %d boots, want %d", m.Boots(), boots)
	}
	for _, p := range m.c.pods("app=web") {
		for _, s := range p.Status.ContainerStatuses {
			if s.RestartCount != 0 {
				t.Errorf("%s was restarted %d times", p.Metadata.Name, s.RestartCount)
			}
		}
	}
}

// send gives a member a node config for its next boot, as an administrator does.
func (m *member) send(config string) {
	m.t.Helper()
	b, err := configOf(m.t, m.c.inventory(m.name, serial(m.number), m.number, config), m.name).Encode()
	if err != nil {
		m.t.Fatal(err)
	}
	m.works("rm -f /tmp/config")
	for part := range slices.Chunk([]byte(base64.StdEncoding.EncodeToString(b)), 500) {
		m.works("echo " + string(part) + " >> /tmp/config")
	}
	m.works("base64 -d /tmp/config | pikeletd config; rm /tmp/config")
}

// upgradesUnderPods: a node that runs pods is upgraded; they get SIGTERM, and come
// back; the release is committed by a Ready of its own boot, and data are kept. A
// config that came meanwhile takes effect: a label it lacks goes.
func upgradesUnderPods(t *testing.T, m *member, config string) {
	m.c.publish(clusterImage(t, "1.1", nil))
	before, counted := m.c.node(m.name), m.c.counted(m)
	m.send(strings.Replace(config, "room: attic", "floor: top", 1))
	m.run("rm -f /var/lib/rancher/web/terminated; pikeletd upgrade --plain-http " + registryAt + "/lab:1.1")
	m.expect("lab 1.1, slot b (trial), root verified")
	m.expect("release is committed: all checks held")
	n := m.ready()
	was, is := before.Status.NodeInfo, n.Status.NodeInfo
	if n.Metadata.UID != before.Metadata.UID || is.BootID == was.BootID || !strings.HasPrefix(is.OSImage, "Pikelet lab 1.1") {
		t.Errorf("before: %+v\nafter: %+v", before, n)
	}
	m.run("", ":~# ") // the trial's prompt came before the commit
	m.eventually("the label that the config has no more is gone", func() bool {
		labels := m.c.node(m.name).Metadata.Labels
		return labels["room"] == "" && labels["floor"] == "top"
	})
	m.works("[ -e /var/lib/rancher/web/terminated ]")
	m.running("app=web", 1)
	m.running("app=ordered", 1)
	m.running("app=counter", 1)
	if now := m.c.counted(m); now < counted {
		t.Errorf("the pod had counted to %d, and to %d after the upgrade", counted, now)
	}
}
