//go:build cluster

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/rig"
)

// fleet are fake nodes that answer requests of rollouts as pikeletd does.
type fleet struct {
	c     *cluster
	fakes *rig.Fakes
	bad   string // the digest of a release whose checks fail

	mu       sync.Mutex
	runs     map[string]string // digests, by the node's name
	written  map[string]string
	left     map[string]*slots.Update
	restarts []string // node and digest, in their order
}

// digestOf is that of a fake release.
func digestOf(release string) string { return "sha256:" + strings.Repeat(release, 64) }

// newFleet has n fake nodes run a release; the first is a server.
func newFleet(t *testing.T, c *cluster, n int, release string) *fleet {
	t.Helper()
	fakes, err := c.NewFakes(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	c.must("label", "node", "fake-1", "node-role.kubernetes.io/control-plane=true")
	f := &fleet{c: c, fakes: fakes, runs: map[string]string{}, written: map[string]string{}, left: map[string]*slots.Update{}}
	for i := range n {
		name := fmt.Sprintf("fake-%d", i+1)
		f.runs[name] = digestOf(release)
		go f.live(t, name)
	}
	return f
}

// live answers until the test ends. What fails is tried again.
func (f *fleet) live(t *testing.T, name string) {
	for t.Context().Err() == nil {
		time.Sleep(500 * time.Millisecond)
		var n struct {
			Metadata struct {
				ResourceVersion string
				Annotations     map[string]string
			}
		}
		b, err := f.c.Get(t.Context(), "/api/v1/nodes/"+name)
		if err != nil || json.Unmarshal(b, &n) != nil {
			continue
		}
		f.mu.Lock()
		self := rollout.Self{Digest: f.runs[name], Kind: slots.Committed, Written: f.written[name], Update: f.left[name]}
		f.mu.Unlock()
		r, _ := rollout.DecodeRequest(n.Metadata.Annotations[rollout.RequestKey])
		last, _ := rollout.DecodeAnswer(n.Metadata.Annotations[rollout.AnswerKey])
		answer, verb := rollout.Answers(r, last, self)
		notes := map[string]string{rollout.ImageKey: rollout.Image{Stream: "lab", Release: self.Digest[7:8], Digest: self.Digest}.Encode()}
		if answer != nil {
			notes[rollout.AnswerKey] = answer.Encode()
		}
		change := map[string]any{"metadata": map[string]any{"resourceVersion": n.Metadata.ResourceVersion, "annotations": notes}}
		if _, err := f.c.Do(t.Context(), http.MethodPatch, "/api/v1/nodes/"+name, change); err != nil || verb == rollout.Nothing {
			continue
		}
		f.do(t, name, *r, verb)
	}
}

// do brings an image, or restarts into it.
func (f *fleet) do(t *testing.T, name string, r rollout.Request, verb rollout.Verb) {
	f.mu.Lock()
	f.written[name] = r.Digest
	f.mu.Unlock()
	if verb != rollout.Apply {
		return
	}
	f.fakes.Down(t.Context(), name)
	time.Sleep(2 * time.Second)
	f.mu.Lock()
	f.restarts = append(f.restarts, name+" "+r.Digest[7:8])
	if r.Digest == f.bad {
		f.left[name] = &slots.Update{Step: slots.Left, Digest: r.Digest, Bad: true, Reason: "volume: it never comes"}
	} else {
		f.runs[name] = r.Digest
	}
	f.mu.Unlock()
	f.fakes.Up(t.Context(), name)
}

// restarted returns which nodes restarted into which release.
func (f *fleet) restarted() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.restarts...)
}
