package agent

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/testing/certtest"
)

const recordedBoot = "0199c828-7815-48b9-83e6-29bbfde7fd96"

// askCluster returns what status says of a node that the API server answers with
// a file of testdata for.
func askCluster(t *testing.T, answer http.HandlerFunc, bootID string) *node.ClusterStatus {
	t.Helper()
	s := httptest.NewTLSServer(answer)
	defer s.Close()
	return cluster(t.Context(), certtest.Kubeconfig(t, s), "attic", bootID)
}

// pressed is the recorded answer notready of a node that is unschedulable too, and
// whose disk is full.
const pressed = "pressed"

func recorded(t *testing.T, name, version string) http.HandlerFunc {
	t.Helper()
	file := name
	if name == pressed {
		file = "notready"
	}
	b, err := os.ReadFile("apiserver/testdata/" + file + ".json")
	if err != nil {
		t.Fatal(err)
	}
	if name == pressed {
		pressure, disk, _ := strings.Cut(string(b), `"DiskPressure"`)
		disk = strings.Replace(disk, `"status": "False"`, `"status": "True"`, 1)
		b = []byte(strings.Replace(pressure+`"DiskPressure"`+disk, `"spec": {`, `"spec": {"unschedulable": true,`, 1))
	}
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/version" && version == "":
			w.WriteHeader(http.StatusForbidden)
		case r.URL.Path == "/version":
			io.WriteString(w, `{"major": "1", "gitVersion": "`+version+`"}`)
		default:
			w.Write(b)
		}
	}
}

func TestClusterStatus(t *testing.T) {
	const notReady = "cluster NOT READY since 2026-11-29 17:48:59 UTC: KubeletNotReady [PLEG is not healthy: pleg has yet to be successful, " +
		"container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: " +
		"cni plugin not initialized]\n"
	for _, c := range []struct{ file, version, boot, want string }{
		{"ready", "v1.34.4+k3s1", recordedBoot, "cluster Ready since 2026-11-29 17:49:02 UTC\n" +
			"cluster kubelet v1.34.4, server v1.34.4+k3s1, InternalIP 10.77.0.11, Hostname attic\n" +
			"cluster taints camera=yes:NoSchedule\n"},
		{"ready", "", "another", "cluster Ready since 2026-11-29 17:49:02 UTC; that is of the boot before this one\n" +
			"cluster kubelet v1.34.4, InternalIP 10.77.0.11, Hostname attic\n" +
			"cluster taints camera=yes:NoSchedule\n"},
		{"notready", "v1.34.4+k3s1", recordedBoot, notReady +
			"cluster kubelet v1.34.4, server v1.34.4+k3s1, InternalIP 10.77.0.11, Hostname attic\n" +
			"cluster taints camera=yes:NoSchedule, node.kubernetes.io/not-ready:NoSchedule\n"},
		{pressed, "v1.34.4+k3s1", recordedBoot, notReady +
			"cluster kubelet v1.34.4, server v1.34.4+k3s1, InternalIP 10.77.0.11, Hostname attic\n" +
			"cluster UNSCHEDULABLE: kubectl uncordon lets pods in again\n" +
			"cluster DISKPRESSURE\n" +
			"cluster taints camera=yes:NoSchedule, node.kubernetes.io/not-ready:NoSchedule\n"},
		{"unknown", "v1.34.4+k3s1", recordedBoot, "cluster UNKNOWN since 2026-11-29 17:49:53 UTC: NodeStatusUnknown Kubelet stopped " +
			"posting node status.\ncluster kubelet v1.34.4, server v1.34.4+k3s1, InternalIP 10.77.0.11, Hostname attic\n" +
			"cluster taints camera=yes:NoSchedule, node.kubernetes.io/unreachable:NoSchedule\n"},
	} {
		if got := describeCluster(askCluster(t, recorded(t, c.file, c.version), c.boot)); got != c.want {
			t.Errorf("%s: got\n%swant\n%s", c.file, got, c.want)
		}
	}
}

// TestClusterStatusInJSON: what programs read survives the way there and back.
func TestClusterStatusInJSON(t *testing.T) {
	s := node.Status{Cluster: askCluster(t, recorded(t, pressed, "v1.34.4+k3s1"), recordedBoot)}
	s.Cluster.Labels.Refused = []node.Refusal{{Why: "no", Command: "kubectl x"}}
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"ready": "False"`, `"since": 1795974539`, `"unschedulable": true`, `"kubelet": "v1.34.4"`,
		`"command": "kubectl x"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("lacks %s:\n%s", want, b)
		}
	}
	back, err := node.DecodeStatus(b)
	if err != nil || describeCluster(back.Cluster) != describeCluster(s.Cluster) {
		t.Errorf("comes back as %+v, %v", back.Cluster, err)
	}
	if b, err := (node.Status{}).Encode(); err != nil || strings.Contains(string(b), "cluster") {
		t.Errorf("without a role: %v\n%s", err, b)
	}
}

// TestClusterStatusWithoutAnswer: it says why there is none, and soon.
func TestClusterStatusWithoutAnswer(t *testing.T) {
	silent := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	start := time.Now()
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"silent", silent, "unknown: the API server does not answer"},
		{"garbage", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }, "unknown: invalid answer"},
		{"unknown node", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, "unknown: the API server knows no node attic"},
		{"not allowed", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }, "unknown: the API server refuses"},
		{"an empty node", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") }, "UNKNOWN"},
	} {
		if got := describeCluster(askCluster(t, c.answer, recordedBoot)); !strings.HasPrefix(got, "cluster "+c.want) {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
	got := describeCluster(cluster(t.Context(), t.TempDir()+"/none", "attic", ""))
	if !strings.Contains(got, "k3s has not joined a cluster yet") {
		t.Errorf("before it joined: got %s", got)
	}
	if took := time.Since(start); took > clusterLimit+10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestClusterStatusIsClean: what others write into the cluster does not reach a
// terminal as more than text, or without end.
func TestClusterStatusIsClean(t *testing.T) {
	evil := `{"spec": {"taints": [` + strings.Repeat(`{"key": "a\u001b[2J", "effect": "NoExecute"},`, 999) + `{"key": "z"}]},
		"status": {"conditions": [{"type": "Ready", "status": "\u001b[31m", "reason": "a\nb", "message": "` +
		strings.Repeat("x", 100_000) + `"}]}}`
	got := describeCluster(askCluster(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, evil) }, ""))
	if strings.Contains(got, "\x1b") || len(got) > 4000 {
		t.Errorf("%d bytes: %.200q", len(got), got)
	}
}

// TestRefusalsAreTold: with the command that a person may run.
func TestRefusalsAreTold(t *testing.T) {
	got := describeCluster(&node.ClusterStatus{Ready: "True", Kubelet: "v1.34.4", Labels: node.LabelStatus{
		Problem: "p", Refused: []node.Refusal{{Why: "not allowed to modify taints", Command: "kubectl taint node attic a:NoExecute"}}}})
	for _, want := range []string{"cluster LABELS not set: p\n", "cluster REFUSED: not allowed to modify taints\n",
		"kubectl taint node attic a:NoExecute"} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
}
