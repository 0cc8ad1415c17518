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

// TestReleases: a new release goes to a machine; one that is not healthy there
// goes to it no more, and the last good one does; a power cut is not held
// against a release, and one that never says anything is given up.
func TestReleases(t *testing.T) {
	s := newStage(t)
	first := s.Images.Current("stable")
	next := func(release string) *image.Image {
		m := *first.Manifest
		m.Release, m.BuildID = release, "build-of-"+release
		i := &image.Image{Manifest: &m, Text: []byte(release), Digest: image.DigestOf([]byte(release)), Source: first.Source}
		s.Images.Set("stable", i)
		return i
	}
	says := func(stage bootapi.Stage) {
		t.Helper()
		m := pi
		m.Build = s.Nodes()[0].build
		r := bootapi.Report{Stage: stage, Error: "the fan stands still"}
		if status, text := s.post(piIP, bootapi.Request{Kind: bootapi.Progress, Machine: m}, string(r.Encode())); status != http.StatusNoContent {
			t.Fatalf("%d %s", status, text)
		}
	}
	runs := func(want *image.Image) {
		t.Helper()
		s.boots()
		if got := s.Nodes()[0].build; got != want.BuildID {
			t.Fatalf("it runs %s, want %s", got, want.BuildID)
		}
	}
	told := func(want *image.Image, good bool) {
		t.Helper()
		m := pi
		m.Build = s.Nodes()[0].build
		status, text := s.asks(piIP, bootapi.Request{Kind: bootapi.Current, Machine: m})
		got, err := bootapi.DecodeWanted([]byte(text))
		if status != 200 || err != nil || got != (bootapi.Wanted{Build: want.BuildID, Release: want.Release, Good: good}) {
			t.Errorf("%d %s (%v), want %s, good %v", status, text, err, want.BuildID, good)
		}
	}
	runs(first)
	told(first, false)
	says(bootapi.Healthy)
	told(first, true)
	second := next("1.3")
	told(second, true)
	runs(second)
	told(second, false)
	says(bootapi.Unhealthy)
	told(first, false)
	runs(first)
	told(first, true)
	// Another release: its power is cut twice, then it is well.
	third := next("1.4")
	for range maxStarts - 1 {
		runs(third)
	}
	runs(third)
	says(bootapi.Healthy)
	told(third, true)
	for range 2 * maxStarts {
		runs(third)
	}
	// What was good once stays good: the network is not the image's fault.
	says(bootapi.Unhealthy)
	runs(third)
	// One that never comes so far as to say anything.
	fourth := next("1.5")
	for range maxStarts {
		runs(fourth)
	}
	runs(third)
	// A server that is started again knows all this.
	again := &Records[Health]{Dir: s.Health.Dir}
	if err := again.Load(); err != nil {
		t.Fatal(err)
	}
	if h, _ := again.Find(Machine{Serial: "52617370", MAC: piMAC}.record()); h.Good != third.Digest || !h.refuses(fourth.Digest) ||
		!h.refuses(second.Digest) {
		t.Errorf("%+v", h)
	}
	if h, ok := again.Find(Machine{Serial: "52617370", MAC: otherMAC}.record()); ok {
		t.Errorf("%+v", h)
	}
}

// TestReportsAtOnce: of reports that come together none is lost.
func TestReportsAtOnce(t *testing.T) {
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

// TestChannelOfItsOwn: a machine that is to run something else is started from
// that, and told of its releases; where it can't be had it is not started from
// what others run.
func TestChannelOfItsOwn(t *testing.T) {
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
