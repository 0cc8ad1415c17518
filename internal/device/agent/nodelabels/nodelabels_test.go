package nodelabels

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/apiserver"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/testing/certtest"
)

// fakeAPI is as much of an API server as has a Node that is patched.
type fakeAPI struct {
	mu        sync.Mutex
	version   int
	meta      map[string]any
	taints    []any
	kubelet   bool // refuses taints, as NodeRestriction does
	refuse    string
	conflicts int
	override  http.HandlerFunc
	patches   []map[string]any
}

func newFakeAPI(labels map[string]any, taints ...any) *fakeAPI {
	return &fakeAPI{version: 1, meta: map[string]any{"name": "attic", "labels": labels, "annotations": map[string]any{}}, taints: taints}
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fail := func(code int, message string) {
		w.WriteHeader(code)
		json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "message": message})
	}
	switch {
	case f.override != nil:
		f.override(w, r)
		return
	case r.URL.Path != "/api/v1/nodes/attic":
		fail(404, "not found")
		return
	case r.Method == http.MethodPatch:
		b, _ := io.ReadAll(r.Body)
		var p map[string]any
		if err := json.Unmarshal(b, &p); err != nil {
			fail(400, err.Error())
			return
		}
		f.patches = append(f.patches, p)
		meta := p["metadata"].(map[string]any)
		spec, hasSpec := p["spec"].(map[string]any)
		if f.conflicts > 0 {
			f.conflicts--
			f.version++ // somebody else was faster
		}
		labels, hasLabels := meta["labels"]
		switch {
		case meta["resourceVersion"] != fmt.Sprint(f.version):
			fail(409, "the object has been modified")
			return
		case f.kubelet && hasSpec:
			fail(403, `nodes "attic" is forbidden: node "attic" is not allowed to modify taints`)
			return
		case f.refuse != "" && hasLabels && strings.Contains(fmt.Sprint(labels), f.refuse):
			fail(403, `nodes "attic" is forbidden: is not allowed to modify labels: `+f.refuse)
			return
		}
		for _, part := range []string{"labels", "annotations"} {
			change, _ := meta[part].(map[string]any)
			for key, value := range change {
				if value == nil {
					delete(f.meta[part].(map[string]any), key)
				} else {
					f.meta[part].(map[string]any)[key] = value
				}
			}
		}
		if hasSpec {
			f.taints = spec["taints"].([]any)
		}
		f.version++
	}
	f.meta["resourceVersion"] = fmt.Sprint(f.version)
	json.NewEncoder(w).Encode(map[string]any{"kind": "Node", "metadata": f.meta, "spec": map[string]any{"taints": f.taints}})
}

// state returns labels and taints as text.
func (f *fakeAPI) state() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var words []string
	labels := f.meta["labels"].(map[string]any)
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		words = append(words, fmt.Sprintf("%s=%v", key, labels[key]))
	}
	for _, t := range f.taints {
		m := t.(map[string]any)
		text := fmt.Sprint(m["key"])
		if v, ok := m["value"]; ok {
			text += fmt.Sprintf("=%v", v)
		}
		text += fmt.Sprintf(":%v", m["effect"])
		if at, ok := m["timeAdded"]; ok {
			text += fmt.Sprintf("@%v", at)
		}
		words = append(words, text)
	}
	return strings.Join(words, " ")
}

type fixture struct {
	t      *testing.T
	api    *fakeAPI
	config string
	log    strings.Builder
	status node.LabelStatus
}

func newFixture(t *testing.T, api *fakeAPI) *fixture {
	t.Helper()
	s := httptest.NewTLSServer(api)
	t.Cleanup(s.Close)
	return &fixture{t: t, api: api, config: certtest.Kubeconfig(t, s)}
}

// keeper returns a keeper of a boot with a config.
func (f *fixture) keeper(text string) *Keeper {
	f.t.Helper()
	cfg, err := nodeconfig.Parse("node.yaml", []byte("k3s: {role: server, "+text+"}"))
	if err != nil {
		f.t.Fatal(err)
	}
	k := New("attic", cfg.K3s, func(s node.LabelStatus) error { f.status = s; return nil }, slog.New(slog.NewTextHandler(&f.log, nil)))
	k.configs = []string{f.config}
	return k
}

// boot reconciles once with a config.
func (f *fixture) boot(text string) {
	f.t.Helper()
	if err := f.keeper(text).Reconcile(f.t.Context()); err != nil {
		f.t.Errorf("%s: %v", text, err)
	}
}

func (f *fixture) want(state string, patches int) {
	f.t.Helper()
	if got := f.api.state(); got != state || len(f.api.patches) != patches {
		f.t.Errorf("got %s after %d patches, want %s after %d", got, len(f.api.patches), state, patches)
	}
}

var notReady = map[string]any{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "timeAdded": "2026-11-28T18:20:39Z"}

// TestLabelsAndTaintsFollowTheConfig: what a config asks for comes, what a later
// one leaves out goes, and what others set stays.
func TestLabelsAndTaintsFollowTheConfig(t *testing.T) {
	f := newFixture(t, newFakeAPI(map[string]any{"kubernetes.io/hostname": "attic", "by": "kubectl"}, notReady))
	const others = " node.kubernetes.io/not-ready:NoExecute@2026-11-28T18:20:39Z"
	f.boot("labels: {disk: ssd, room: attic}, taints: ['camera=yes:NoSchedule', 'a:NoExecute']")
	f.want("by=kubectl disk=ssd kubernetes.io/hostname=attic room=attic"+others+" camera=yes:NoSchedule a:NoExecute", 1)
	f.boot("labels: {disk: ssd, room: attic}, taints: ['camera=yes:NoSchedule', 'a:NoExecute']")
	f.want("by=kubectl disk=ssd kubernetes.io/hostname=attic room=attic"+others+" camera=yes:NoSchedule a:NoExecute", 1)
	f.boot("labels: {disk: nvme}, taints: ['camera=no:NoSchedule']")
	f.want("by=kubectl disk=nvme kubernetes.io/hostname=attic"+others+" camera=no:NoSchedule", 2)
	f.boot("")
	f.want("by=kubectl kubernetes.io/hostname=attic"+others, 3)
	if notes := f.api.meta["annotations"].(map[string]any); len(notes) != 0 {
		t.Errorf("annotations stay: %v", notes)
	}
	f.boot("")
	f.want("by=kubectl kubernetes.io/hostname=attic"+others, 3)
}

// TestChangesOfOthersStay: what somebody set anew after the config did is theirs,
// once the config leaves it out.
func TestChangesOfOthersStay(t *testing.T) {
	f := newFixture(t, newFakeAPI(map[string]any{}))
	f.boot("labels: {disk: ssd, gone: 'yes'}, taints: ['a=1:NoExecute', 'b=1:NoExecute']")
	f.api.meta["labels"].(map[string]any)["disk"] = "tape"
	delete(f.api.meta["labels"].(map[string]any), "gone")
	f.api.taints = []any{map[string]any{"key": "a", "value": "2", "effect": "NoExecute"}}
	f.boot("")
	f.want("disk=tape a=2:NoExecute", 2)
}

// TestLabelsThatK3sGave: k3s itself gives labels and taints when the node
// registers; they are the config's all the same.
func TestLabelsThatK3sGave(t *testing.T) {
	f := newFixture(t, newFakeAPI(map[string]any{"disk": "ssd"}, map[string]any{"key": "a", "effect": "NoExecute"}))
	f.boot("labels: {disk: ssd}, taints: ['a:NoExecute']")
	f.want("disk=ssd a:NoExecute", 1)
	f.boot("")
	f.want("", 2)
}

// TestConflicts: a change that somebody else was faster than is made anew.
func TestConflicts(t *testing.T) {
	f := newFixture(t, newFakeAPI(map[string]any{}))
	f.api.conflicts = 2
	f.boot("labels: {disk: ssd}")
	f.want("disk=ssd", 3)
	f.api.conflicts = 100
	if err := f.keeper("labels: {disk: nvme}").Reconcile(t.Context()); !errors.Is(err, apiserver.ErrConflict) {
		t.Errorf("without end: got %v, want ErrConflict", err)
	}
	f.want("disk=ssd", 3+conflicts)
}

// TestTaintsOfAgents: a kubelet may not change its taints. Its labels are set
// all the same, and the refusal is told with what somebody may do, once.
func TestTaintsOfAgents(t *testing.T) {
	f := newFixture(t, newFakeAPI(map[string]any{}, map[string]any{"key": "old", "value": "x", "effect": "NoSchedule"}))
	f.boot("taints: ['old=x:NoSchedule']")
	f.api.kubelet = true
	k := f.keeper("labels: {disk: ssd}, taints: ['camera=yes:NoSchedule']")
	const command = "kubectl taint node attic --overwrite camera=yes:NoSchedule old:NoSchedule-"
	for range 3 {
		if err := k.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(f.status.Refused) != 1 || f.status.Refused[0].Command != command ||
			!strings.Contains(f.status.Refused[0].Why, "is not allowed to modify taints") {
			t.Fatalf("got %+v", f.status)
		}
	}
	f.want("disk=ssd old=x:NoSchedule", 3) // the first boot's, the refused one, and that of the label
	if n := strings.Count(f.log.String(), "level=WARN"); n != 1 || !strings.Contains(f.log.String(), command) {
		t.Errorf("%d warnings, want 1, with the command:\n%s", n, f.log.String())
	}
	// Somebody runs the command.
	f.api.taints = []any{map[string]any{"key": "camera", "value": "yes", "effect": "NoSchedule"}}
	if err := k.Reconcile(t.Context()); err != nil || len(f.status.Refused) != 0 {
		t.Errorf("after it was run: got %+v, %v", f.status, err)
	}
	// Now it is the config's again, and would go with it.
	f.api.kubelet = false
	f.boot("labels: {disk: ssd}")
	f.want("disk=ssd", 5)
}

// TestRefusedLabels: what is refused of the one does not keep the node from the
// other.
func TestRefusedLabels(t *testing.T) {
	const labels, taints = "kubectl label node attic --overwrite disk=ssd", "kubectl taint node attic --overwrite a:NoExecute"
	for name, c := range map[string]struct {
		kubelet bool
		config  string
		state   string
		patches int
		want    []string
	}{
		"labels":             {false, "labels: {disk: ssd}", "", 1, []string{labels}},
		"labels, not taints": {false, "labels: {disk: ssd}, taints: ['a:NoExecute']", "a:NoExecute", 3, []string{labels}},
		"both":               {true, "labels: {disk: ssd}, taints: ['a:NoExecute']", "", 3, []string{taints, labels}},
		"taints":             {true, "taints: ['a:NoExecute']", "", 1, []string{taints}},
	} {
		f := newFixture(t, newFakeAPI(map[string]any{}))
		f.api.refuse, f.api.kubelet = "disk", c.kubelet
		k := f.keeper(c.config)
		for range 2 {
			if err := k.Reconcile(t.Context()); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range f.status.Refused {
				got = append(got, r.Command)
				if word := strings.Fields(r.Command)[1]; !strings.Contains(r.Why, word+"s") {
					t.Errorf("%s: %s was refused for %q", name, r.Command, r.Why)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: got %q, want %q", name, got, c.want)
			}
		}
		f.want(c.state, c.patches)
		if n := strings.Count(f.log.String(), "level=WARN"); n != len(c.want) {
			t.Errorf("%s: %d warnings, want %d:\n%s", name, n, len(c.want), f.log.String())
		}
	}
}

// TestDamagedNotes: an annotation that somebody changed removes nothing that is
// not the node config's to set.
func TestDamagedNotes(t *testing.T) {
	for name, notes := range map[string][2]string{
		"garbage":       {"{", "["},
		"another type":  {`[1]`, `{"a": 1}`},
		"odd taints":    {`null`, `["", ":", "x", "=:"]`},
		"of Kubernetes": {`{"node-role.kubernetes.io/control-plane": "true", "by": "me"}`, `["x:NoExecute"]`},
	} {
		f := newFixture(t, newFakeAPI(map[string]any{"node-role.kubernetes.io/control-plane": "true", "by": "kubectl"}, notReady))
		f.api.meta["annotations"] = map[string]any{labelsAnnotation: notes[0], taintsAnnotation: notes[1]}
		f.boot("labels: {disk: ssd}")
		if got := f.api.state(); got != "by=kubectl disk=ssd node-role.kubernetes.io/control-plane=true "+
			"node.kubernetes.io/not-ready:NoExecute@2026-11-28T18:20:39Z" {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

// TestBadServers: whatever answers, a reconciliation ends with an error, changes
// nothing, and is logged once.
func TestBadServers(t *testing.T) {
	answer := func(code int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code); io.WriteString(w, text) }
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   error
		lines  int
	}{
		"garbage":         {answer(200, "\x00"), apiserver.ErrAnswer, 1},
		"another node":    {answer(200, `{"metadata": {"name": "cellar", "resourceVersion": "1"}}`), apiserver.ErrAnswer, 1},
		"no version":      {answer(200, `{"metadata": {"name": "attic"}}`), apiserver.ErrAnswer, 1},
		"unknown":         {answer(404, ""), apiserver.ErrNotFound, 0},
		"unauthorized":    {answer(401, ""), apiserver.ErrRefused, 1},
		"not there":       {answer(503, ""), apiserver.ErrUnreachable, 0},
		"always conflict": {answer(409, ""), apiserver.ErrConflict, 0},
		"refuses all": {func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPatch {
				w.WriteHeader(403)
			}
			io.WriteString(w, `{"metadata": {"name": "attic", "resourceVersion": "1", "labels": {"disk": "ssd"}}}`)
		}, apiserver.ErrRefused, 1},
	} {
		f := newFixture(t, newFakeAPI(map[string]any{}))
		f.api.override = c.answer
		k := f.keeper("labels: {disk: ssd}")
		for range 3 {
			if err := k.Reconcile(t.Context()); !errors.Is(err, c.want) {
				t.Errorf("%s: got %v, want %v", name, err, c.want)
			}
		}
		if f.status.Problem == "" {
			t.Errorf("%s: the status tells of no problem", name)
		}
		if n := strings.Count(f.log.String(), "\n"); n != c.lines {
			t.Errorf("%s: %d lines are logged, want %d:\n%s", name, n, c.lines, f.log.String())
		}
	}
}

// TestRunRetries: it tries anew, later and later, until the cluster answers, and
// ends with its context.
func TestRunRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		saved := 0
		k := New("attic", nodeconfig.K3s{Role: "agent"}, func(s node.LabelStatus) error { saved++; return nil },
			slog.New(slog.DiscardHandler))
		k.configs = []string{t.TempDir() + "/none"}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { k.Run(ctx); close(done) }()
		time.Sleep(36 * time.Second) // tries at 0, 5, 15 and 35 s
		synctest.Wait()
		if saved != 4 {
			t.Errorf("%d tries in 36 s, want 4", saved)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if saved < 30 || saved > 40 {
			t.Errorf("%d tries in an hour, want one in two minutes", saved)
		}
		stop()
		<-done
	})
}

// TestCredentials: an agent has the kubelet's alone, which NodeRestriction holds
// to its own node; a server that has no API server of its own falls back to them.
func TestCredentials(t *testing.T) {
	for role, want := range map[string][]string{
		"agent":  {apiserver.KubeletConfig},
		"server": {apiserver.AdminConfig, apiserver.KubeletConfig},
	} {
		if k := New("attic", nodeconfig.K3s{Role: role}, nil, nil); !slices.Equal(k.configs, want) {
			t.Errorf("%s: got %q, want %q", role, k.configs, want)
		}
	}
	f := newFixture(t, newFakeAPI(map[string]any{}))
	k := f.keeper("labels: {disk: ssd}")
	k.configs = []string{t.TempDir() + "/admin.kubeconfig", f.config}
	if err := k.Reconcile(t.Context()); err != nil {
		t.Error(err)
	}
	f.want("disk=ssd", 1)
}
