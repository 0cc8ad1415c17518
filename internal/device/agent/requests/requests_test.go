package requests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pikelet-os/pikelet/internal/device/agent/clock"
	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/certtest"
)

// server is an API server with one Node, attic, and what was written to it.
type server struct {
	mu          sync.Mutex
	annotations map[string]string
	version     int
	others      string // further nodes, JSON
	conditions  []string
	events      []string
	refuses     int // how many patches more it answers with a conflict
	away        int // how many conditions and events more it does not take
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, _ := io.ReadAll(r.Body)
	node := func() string {
		text, _ := json.Marshal(s.annotations)
		return fmt.Sprintf(`{"metadata": {"name": "attic", "resourceVersion": "%d", "annotations": %s}}`, s.version, text)
	}
	path := r.Method + " " + r.URL.Path
	if s.away > 0 && (strings.HasSuffix(path, "/status") || strings.HasSuffix(path, "/events")) {
		s.away--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	switch path {
	case "GET /api/v1/nodes/attic":
		io.WriteString(w, node())
	case "GET /api/v1/nodes":
		fmt.Fprintf(w, `{"items": [%s]}`, s.others)
	case "PATCH /api/v1/nodes/attic":
		var p struct {
			Metadata struct {
				ResourceVersion string
				Annotations     map[string]string
			}
		}
		if err := json.Unmarshal(b, &p); err != nil || p.Metadata.ResourceVersion != fmt.Sprint(s.version) || s.refuses > 0 {
			s.refuses--
			w.WriteHeader(http.StatusConflict)
			return
		}
		for key, text := range p.Metadata.Annotations {
			s.annotations[key] = text
		}
		s.version++
		io.WriteString(w, node())
	case "PATCH /api/v1/nodes/attic/status":
		var p struct {
			Status struct {
				Conditions []struct{ Type, Status, Reason, Message string }
			}
		}
		if err := json.Unmarshal(b, &p); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		for _, c := range p.Status.Conditions {
			s.conditions = append(s.conditions, c.Type+" "+c.Status+" "+c.Reason+": "+c.Message)
		}
		io.WriteString(w, node())
	case "POST /api/v1/namespaces/default/events":
		var e struct{ Type, Reason, Message string }
		if err := json.Unmarshal(b, &e); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.events = append(s.events, e.Type+" "+e.Reason+": "+e.Message)
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, "{}")
	default:
		w.WriteHeader(http.StatusForbidden)
	}
}

// asks writes a request onto the Node.
func (s *server) asks(r rollout.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.annotations[rollout.RequestKey] = r.Encode()
	s.version++
}

// machine is an upgrader that does as it is told.
type machine struct {
	self  rollout.Self
	image rollout.Image
	did   []string
	err   error
}

var errRefused = errors.New("of another stream")

func (m *machine) Self() (rollout.Self, rollout.Image, error) { return m.self, m.image, nil }
func (m *machine) Refused(err error) bool                     { return errors.Is(err, errRefused) }

func (m *machine) Bring(_ context.Context, r rollout.Request) error {
	m.did = append(m.did, "bring "+r.Digest)
	return m.err
}

func (m *machine) Apply(ctx context.Context, r rollout.Request, mayRestart func(context.Context) error) error {
	m.did = append(m.did, "apply "+r.Digest)
	if err := mayRestart(ctx); err != nil {
		return err
	}
	return m.err
}

// bench is a keeper at work.
type bench struct {
	t *testing.T
	*server
	*machine
	k *Keeper
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, server: &server{annotations: map[string]string{}}, machine: &machine{
		self:  rollout.Self{Digest: "sha256:now", Kind: slots.Committed},
		image: rollout.Image{Stream: "lab", Release: "1.0", Digest: "sha256:now"},
	}}
	s := httptest.NewTLSServer(b.server)
	t.Cleanup(s.Close)
	b.k = New("attic", false, b.machine, slog.New(slog.DiscardHandler))
	b.k.kubelet, b.k.clock = certtest.Kubeconfig(t, s), clock.New()
	return b
}

// turn has the keeper look once, and wait for what it began.
func (b *bench) turn() {
	b.t.Helper()
	if err := b.k.Reconcile(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	if b.k.state.Busy {
		b.k.end(<-b.k.ended)
	}
}

// says checks the answer on the Node.
func (b *bench) says(phase rollout.Phase, reason string) {
	b.t.Helper()
	a, err := rollout.DecodeAnswer(b.annotations[rollout.AnswerKey])
	if err != nil || a == nil || a.Phase != phase || a.Reason != reason {
		b.t.Errorf("the answer is %+v, %v, want %s %q", a, err, phase, reason)
	}
}

// TestRequest: an image is brought, applied and committed, and each answer is on the
// Node before what it is about begins.
func TestRequest(t *testing.T) {
	b := newBench(t)
	b.turn()
	if got := b.annotations[rollout.ImageKey]; got != b.image.Encode() || len(b.did) > 0 {
		t.Errorf("without a request: the Node says %s, and it did %q", got, b.did)
	}
	r := rollout.Request{ID: "u/1", Image: "lab@sha256:next", Digest: "sha256:next"}
	b.asks(r)
	b.refuses = 1
	if err := b.k.Reconcile(t.Context()); err == nil || len(b.did) > 0 {
		t.Errorf("an answer that was not taken: %v, and it did %q", err, b.did)
	}
	b.err = errors.New("no route to host")
	b.turn()
	b.says(rollout.Bringing, "")
	b.turn()
	b.says(rollout.Bringing, "no route to host")
	b.err = nil
	b.turn()
	b.turn()
	b.says(rollout.Brought, "")
	r.Apply = true
	b.asks(r)
	b.turn()
	b.says(rollout.Applying, "")
	b.self = rollout.Self{Digest: "sha256:next", Kind: slots.Trial}
	b.image = rollout.Image{Stream: "lab", Release: "1.1", Digest: "sha256:next", Trial: true}
	b.turn()
	b.says(rollout.OnTrial, "")
	b.self.Kind, b.image.Trial = slots.Committed, false
	b.turn()
	b.says(rollout.Committed, "")
	if got, want := strings.Join(b.did, ", "), "bring sha256:next, bring sha256:next, bring sha256:next, apply sha256:next"; got != want {
		t.Errorf("it did %s, want %s", got, want)
	}
	if got, want := b.conditions[len(b.conditions)-1], "PikeletUpgraded True Committed: runs lab 1.1"; got != want {
		t.Errorf("the condition is %q, want %q", got, want)
	}
	const asked = ": asked for by a rollout"
	want := []string{"Normal UpgradeBringing" + asked, "Normal UpgradeBrought" + asked, "Normal UpgradeApplying" + asked,
		"Normal UpgradeOnTrial" + asked, "Normal UpgradeCommitted: runs lab 1.1"}
	if diff := cmp.Diff(want, b.events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestAnswersAreTold: a condition or an event that the API server did not take is
// written again, before what the answer is about begins.
func TestAnswersAreTold(t *testing.T) {
	for _, away := range []int{1, 2} { // the condition, and then the event too
		b := newBench(t)
		b.turn()
		b.asks(rollout.Request{ID: "u/1", Image: "lab@sha256:next", Digest: "sha256:next"})
		b.away = away
		for range away {
			if err := b.k.Reconcile(t.Context()); err == nil || len(b.did) > 0 {
				t.Errorf("%d away: %v, and it did %q", away, err, b.did)
			}
		}
		b.turn()
		if len(b.events) != 1 || len(b.conditions) != 1 || !strings.HasPrefix(b.events[0], "Normal UpgradeBringing") || len(b.did) != 1 {
			t.Errorf("%d away: conditions %q, events %q, and it did %q", away, b.conditions, b.events, b.did)
		}
	}
}

// TestRefusals: what the node does not take is answered once, with the reason, until
// another request comes; a way back is a warning.
func TestRefusals(t *testing.T) {
	b := newBench(t)
	b.err = errRefused
	b.asks(rollout.Request{ID: "u/1", Image: "lab@sha256:next", Digest: "sha256:next"})
	for range 4 {
		b.turn()
	}
	b.says(rollout.Refused, "of another stream")
	if len(b.did) != 1 {
		t.Errorf("it did %q, want one attempt", b.did)
	}
	b.err = nil
	b.asks(rollout.Request{ID: "u/2", Image: "lab@sha256:next", Digest: "sha256:next", Apply: true})
	b.turn()
	b.self.Update = &slots.Update{Step: slots.Left, Digest: "sha256:next", Release: "1.1", Bad: true, Reason: "volume: it never comes"}
	b.turn()
	b.says(rollout.Left, "volume: it never comes")
	if got, want := b.events[len(b.events)-1], "Warning UpgradeRolledBack: volume: it never comes"; got != want {
		t.Errorf("the event is %q, want %q", got, want)
	}
	b.server.annotations[rollout.RequestKey] = "garbage"
	if err := b.k.Reconcile(t.Context()); !errors.Is(err, rollout.ErrText) {
		t.Errorf("a request that cannot be read: %v, want %v", err, rollout.ErrText)
	}
}

// TestServersKeepTheirQuorum: a server does not restart while another one is not
// well, is no member of etcd that votes, or tries a release.
func TestServersKeepTheirQuorum(t *testing.T) {
	const plane = `"labels": {"node-role.kubernetes.io/control-plane": "true"}`
	server := func(name, ready, more string) string {
		return fmt.Sprintf(`{"metadata": {"name": %q, %s %s}, "status": {"conditions": [{"type": "Ready", "status": %q}`,
			name, plane, more, ready)
	}
	well := server("cellar", "True", "") + `, {"type": "EtcdIsVoter", "status": "True"}]}}`
	for name, c := range map[string]struct{ other, want string }{
		"all are well":     {well, ""},
		"an agent is away": {well + `, {"metadata": {"name": "shed"}}`, ""},
		"one is away":      {server("shed", "Unknown", "") + "]}}", "server shed is not well"},
		"one is a learner": {server("shed", "True", "") + `, {"type": "EtcdIsVoter", "status": "False"}]}}`, "server shed is not well"},
		"one tries another": {
			server("shed", "True", `, "annotations": {"pikelet.dev/image": "{\"trial\": true}"}`) + "]}}", "server shed is not well",
		},
	} {
		b := newBench(t)
		b.k.admin = b.k.kubelet
		b.others = server("attic", "True", "") + "]}}, " + c.other
		err := b.k.mayRestart(t.Context())
		if (err == nil) != (c.want == "") || err != nil && (!errors.Is(err, errUnsafe) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}
