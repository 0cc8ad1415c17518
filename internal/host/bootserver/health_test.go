package bootserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// servesRelease serves another image of the channel, of a new release.
func (s *stage) servesRelease(name string) *image.Image {
	now := s.Images.Current("stable")
	m := *now.Manifest
	m.Release, m.BuildID = name, "build-of-"+name
	i := &image.Image{Manifest: &m, Text: []byte(name), Digest: image.DigestOf([]byte(name)), Source: now.Source}
	s.Images.Set("stable", i)
	return i
}

// running is the machine of the tests with the build that it was served last.
func (s *stage) running() bootapi.Machine {
	m := pi
	m.Build = s.Nodes()[0].build
	return m
}

// reports has the machine report a stage.
func (s *stage) reports(stage bootapi.Stage) {
	s.t.Helper()
	r := bootapi.Report{Stage: stage, Error: "the fan stands still"}
	status, text := s.post(piIP, bootapi.Request{Kind: bootapi.Progress, Machine: s.running()}, string(r.Encode()))
	if status != http.StatusNoContent {
		s.t.Fatalf("reporting %s: got %d %s", stage, status, text)
	}
}

// bootsInto boots the machine, which must be served the image.
func (s *stage) bootsInto(want *image.Image) {
	s.t.Helper()
	s.boots()
	if got := s.Nodes()[0].build; got != want.BuildID {
		s.t.Fatalf("the machine boots %s, want %s", got, want.BuildID)
	}
}

// wants checks which image the machine is to run, and whether the running one was
// healthy.
func (s *stage) wants(want *image.Image, good bool) {
	s.t.Helper()
	status, text := s.asks(piIP, bootapi.Request{Kind: bootapi.Current, Machine: s.running()})
	got, err := bootapi.DecodeWanted([]byte(text))
	wanted := bootapi.Wanted{Build: want.BuildID, Release: want.Release, Good: good, Kubernetes: want.Kubernetes}
	if status != 200 || err != nil || got != wanted {
		s.t.Errorf("the machine is to run: got %d %s (%v), want %s, good %v", status, text, err, want.BuildID, good)
	}
}

// TestReleases: a machine is served a new release. One that is unhealthy there is
// not served to it again, the last healthy one is instead. Interrupted boots are
// not held against a release, but one that never reports is given up.
func TestReleases(t *testing.T) {
	s := newStage(t)
	first := s.Images.Current("stable")
	s.bootsInto(first)
	s.wants(first, false)
	s.reports(bootapi.Healthy)
	s.wants(first, true)
	second := s.servesRelease("1.3")
	s.wants(second, true)
	s.bootsInto(second)
	s.wants(second, false)
	s.reports(bootapi.Unhealthy)
	s.wants(first, false)
	s.bootsInto(first)
	s.wants(first, true)
	// Another release: its power is cut twice, then it is healthy.
	third := s.servesRelease("1.4")
	for range maxStarts - 1 {
		s.bootsInto(third)
	}
	s.bootsInto(third)
	s.reports(bootapi.Healthy)
	s.wants(third, true)
	for range 2 * maxStarts {
		s.bootsInto(third)
	}
	// What was healthy once stays so: the network is not the fault of the image.
	s.reports(bootapi.Unhealthy)
	s.bootsInto(third)
	// One that never reports.
	fourth := s.servesRelease("1.5")
	for range maxStarts {
		s.bootsInto(fourth)
	}
	s.bootsInto(third)
	// A server that is restarted knows all this.
	again := &Records[Health]{Dir: s.Health.Dir}
	if err := again.Load(); err != nil {
		t.Fatal(err)
	}
	h, _ := again.Find(Machine{Serial: piSerial, MAC: piMAC}.record())
	if h.Good != third.Digest || !h.refuses(fourth.Digest) || !h.refuses(second.Digest) {
		t.Errorf("the health after a restart: got %+v, want %s healthy, and %s and %s refused", h, third.Digest, fourth.Digest, second.Digest)
	}
	if h, ok := again.Find(Machine{Serial: piSerial, MAC: otherMAC}.record()); ok {
		t.Errorf("the health of another machine: got %+v, want none", h)
	}
}

// TestAgentIsNotServedPastItsServers: a release whose kubelet is newer than the API
// server of the machine's cluster is held back, with both versions, until the
// machine reports that the servers are upgraded; a server that is restarted
// remembers, and a machine without another image is served what there is.
func TestAgentIsNotServedPastItsServers(t *testing.T) {
	s := newStage(t)
	report := func(api string) {
		t.Helper()
		r := bootapi.Report{Stage: bootapi.Healthy, APIServer: api}
		status, text := s.post(piIP, bootapi.Request{Kind: bootapi.Progress, Machine: s.running()}, string(r.Encode()))
		if status != http.StatusNoContent {
			t.Fatalf("reporting: got %d %s", status, text)
		}
	}
	first := s.Images.Current("stable")
	s.bootsInto(first)
	report("v1.34.4+k3s1")
	second := s.servesRelease("1.3")
	second.Kubernetes = "v1.35.1"
	s.wants(first, true)
	const says = "release 1.3 is held back: a kubelet must not be newer than the API server: " +
		"the kubelet would be v1.35.1, the API server v1.34.4+k3s1"
	if got := s.Nodes()[0].Held; got != says {
		t.Errorf("got %q, want %q", got, says)
	}
	s.wants(first, true)
	if n := strings.Count(strings.Join(s.logged, "\n"), "held back until"); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, strings.Join(s.logged, "\n"))
	}
	s.bootsInto(first)
	again := &Records[Health]{Dir: s.Health.Dir}
	if err := again.Load(); err != nil {
		t.Fatal(err)
	}
	h, _ := again.Find(Machine{Serial: piSerial, MAC: piMAC}.record())
	if h.skews(second) == nil || h.skews(first) != nil {
		t.Errorf("after a restart of the server: %+v lets the machine have release 1.3", h)
	}
	report("v1.35.1+k3s1")
	s.wants(second, true)
	if got := s.Nodes()[0].Held; got != "" {
		t.Errorf("the servers are upgraded: got %q, want none", got)
	}
	s.bootsInto(second)

	// Without another image to serve, what is known may be old.
	m := s.machine(Machine{Serial: piSerial, MAC: piMAC})
	s.note(m, func(h Health) Health { return Health{APIServer: "v1.34.4", Good: "sha256:gone"} })
	if img, held := s.imageFor(m); img != second || held != "" {
		t.Errorf("got %v, %q, want the current image", img, held)
	}
}

// TestConcurrentReports: no report is lost where several arrive at once.
func TestConcurrentReports(t *testing.T) {
	s := newStage(t)
	m := Machine{Serial: piSerial, MAC: piMAC}
	var all sync.WaitGroup
	for i := range maxBad {
		all.Go(func() { s.note(m, func(h Health) Health { return h.unhealthy(fmt.Sprint("sha256:", i)) }) })
	}
	all.Wait()
	if h := s.health(m); len(h.Bad) != maxBad {
		t.Errorf("%d of %d reports are kept: %+v", len(h.Bad), maxBad, h)
	}
}

// TestHealthBySerialIsRead: what was written down by serial alone is still known, and
// goes on under the machine's own name.
func TestHealthBySerialIsRead(t *testing.T) {
	s := newStage(t)
	if err := s.Health.Put(piSerial, Health{Good: "sha256:first", Bad: []string{"sha256:second"}}); err != nil {
		t.Fatal(err)
	}
	m := Machine{Serial: piSerial, MAC: piMAC}
	s.note(m, func(h Health) Health { return h.unhealthy("sha256:third") })
	if h := s.health(m); h.Good != "sha256:first" || len(h.Bad) != 2 {
		t.Errorf("%+v", h)
	}
	if h, _ := s.Health.Find(piSerial); len(h.Bad) != 1 {
		t.Errorf("what others begin with was changed: %+v", h)
	}
}

// TestHealthIsBounded: machines whose hardware address is named nowhere can't fill
// the disk with what became of releases on them, and cost no other its record.
func TestHealthIsBounded(t *testing.T) {
	s := newStage(t)
	s.Health.list = map[string]Health{}
	for i := range maxRecords {
		s.Health.list[fmt.Sprintf("%08x", i)] = Health{}
	}
	m := Machine{Serial: piSerial, MAC: piMAC}
	bad := func(h Health) Health { return h.unhealthy("sha256:first") }
	if s.note(m, bad); len(s.health(m).Bad) != 0 || !strings.Contains(strings.Join(s.logged, "\n"), "records=16384") {
		t.Errorf("one more was written down; logged %q", s.logged)
	}
	s.Roster = some{piMAC}
	if s.note(m, bad); len(s.health(m).Bad) != 1 {
		t.Error("one whose hardware address is named was not")
	}
}

// TestUnhealthyImageIsServedForWantOfAnother: where the only image is not healthy, it is served all the
// same: whoever waits for it to be well has nothing else.
func TestUnhealthyImageIsServedForWantOfAnother(t *testing.T) {
	s := newStage(t)
	for range 2 * maxStarts {
		s.boots()
	}
	if got := s.Nodes()[0].build; got != "build1" {
		t.Error(got)
	}
}

func TestOneBootOneImage(t *testing.T) {
	s := newStage(t)
	if _, err := s.fetch(piIP, "52617370/config.txt"); err != nil {
		t.Fatal(err)
	}
	m := *s.Images.Current("stable").Manifest
	m.BuildID = "build2"
	s.Images.Set("stable", &image.Image{Manifest: &m, Digest: "other", Source: image.Blobs(filepath.Join(t.TempDir(), "nowhere"))})
	// The files of the other are nowhere, so one of them would be an error.
	for _, name := range []string{"vmlinuz", "initramfs", "cmdline.txt"} {
		if _, err := s.fetch(piIP, "52617370/"+name); err != nil {
			t.Errorf("%s: a boot that began with one image went on with another: %v", name, err)
		}
	}
	status, text := s.asks(piIP, bootapi.Request{Kind: bootapi.Manifest, Machine: pi})
	if status != 200 || text != "the manifest" {
		t.Errorf("its /init got %d %q", status, text)
	}
}

func TestWantedRoundTrip(t *testing.T) {
	w := bootapi.Wanted{Build: "b", Release: "1.2", Good: true}
	if got, err := bootapi.DecodeWanted(w.Encode()); err != nil || got != w {
		t.Errorf("%+v %v", got, err)
	}
	if b, _ := json.Marshal(w); !strings.Contains(string(w.Encode()), string(b)) {
		t.Errorf("%s", b)
	}
	if _, err := bootapi.DecodeWanted([]byte("{}")); err == nil {
		t.Error("nothing was taken for something")
	}
}

// channels is a roster in which one machine is to run something else.
type channels struct{ some }

func (channels) Reference(m Machine) string {
	return map[string]string{"52617370": "beta"}[m.Serial]
}

// TestMachineWithOwnChannel: a machine with a channel of its own boots from that
// channel, and learns of its releases. While the channel is unavailable, the
// machine does not boot the image of the others.
func TestMachineWithOwnChannel(t *testing.T) {
	s := newStage(t)
	s.Roster = channels{}
	if _, err := s.fetch(piIP, "52617370/config.txt"); err == nil {
		t.Error("it is started from another image than its own")
	}
	stable := s.Images.Current("stable")
	m := *stable.Manifest
	m.Release, m.BuildID = "2.0", "build2"
	s.Images.Set("beta", &image.Image{Manifest: &m, Text: []byte("beta's"), Digest: "sha256:second", Source: stable.Source})
	s.boots()
	if status, got := s.asks(piIP, bootapi.Request{Kind: bootapi.Current, Machine: pi}); status != http.StatusOK ||
		!strings.Contains(got, "2.0") {
		t.Errorf("it is to run %d %s", status, got)
	}
	mine := pi
	mine.Build = "build2"
	if status, got := s.asks(piIP, bootapi.Request{Kind: bootapi.Config, Machine: mine}); status != http.StatusOK {
		t.Errorf("its config: %d %s", status, got)
	}
	if n := s.Nodes(); len(n) != 1 || n[0].build != "build2" {
		t.Errorf("%+v", n)
	}
}
