package updater

import (
	"errors"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// TestSkew: a release whose Kubernetes does not go with the cluster's is refused,
// with both versions and what to do first.
func TestSkew(t *testing.T) {
	version := func(s string) skew.Version {
		v, err := skew.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	agent := skew.Cluster{Kubelet: version("v1.34.4+k3s1"), API: version("v1.34.4+k3s1")}
	server := skew.Cluster{Server: true, Kubelet: agent.API, API: agent.API,
		Others: []skew.Member{{Name: "shed", Kubelet: version("v1.31.9+k3s1")}}}
	for name, c := range map[string]struct {
		brings string
		in     skew.Cluster
		err    error
		want   error
		text   string
		advice string
	}{
		"the same": {"v1.34.4", agent, nil, nil, "", ""},
		"newer than its server": {"v1.35.0", agent, nil, skew.ErrKubeletNewer,
			"the kubelet would be v1.35.0, the API server v1.34.4+k3s1", "servers of the cluster first"},
		"two minors further":   {"v1.36.1", agent, nil, skew.ErrStep, "from v1.34.4+k3s1 to v1.36.1", "the minor version between first"},
		"server of old agents": {"v1.35.0", server, nil, skew.ErrKubeletOlder, "shed: ", "bring the node that is named"},
		"API server is away": {"v1.34.4", skew.Cluster{}, errors.New("connection refused"), ErrSkew,
			"brings Kubernetes v1.34.4, and which one the cluster runs is not known: connection refused", "when the API server answers"},
	} {
		got := MayRun("1.3", c.brings, &c.in, c.err)
		advice := strings.Join(hint.Of(got), "")
		if !errors.Is(got, c.want) || got != nil && (!errors.Is(got, ErrSkew) || !strings.Contains(got.Error(), c.text)) ||
			(advice == "") != (c.advice == "") || !strings.Contains(advice, c.advice) {
			t.Errorf("%s: got %v, hint %q, want %v with %q, hint %q", name, got, advice, c.want, c.text, c.advice)
		}
	}
}

// TestSkewedReleaseIsNotArmed: an upgrade and a way back are refused alike, nothing
// is written, and both succeed once the servers are ahead.
func TestSkewedReleaseIsNotArmed(t *testing.T) {
	kubernetes := func(release, v string) image.Image {
		m := newMaking(t, release)
		m.change = func(m *image.Manifest) { m.Kubernetes = v }
		return m.image(t)
	}
	first, next := kubernetes("1.0", "v1.34.4"), kubernetes("1.1", "v1.35.1")
	l := newLife(t, first)
	l.start("", PowerOn)
	l.add(next, true)
	cluster := func(kubelet, api string) {
		t.Helper()
		k, err := skew.Parse(kubelet)
		a, aerr := skew.Parse(api)
		if err := errors.Join(err, aerr); err != nil {
			t.Fatal(err)
		}
		l.cluster = &skew.Cluster{Kubelet: k, API: a}
	}
	cluster("v1.34.4", "v1.34.4")
	if err := l.updater().MayRun(t.Context(), Candidate{Manifest: next.Manifest}); !errors.Is(err, skew.ErrKubeletNewer) {
		t.Errorf("before anything is fetched: got %v, want %v", err, skew.ErrKubeletNewer)
	}
	if _, err := l.upgrade(next, false); !errors.Is(err, skew.ErrKubeletNewer) || l.record().Step != "" || l.asked != nil {
		t.Errorf("arming: got %v, want %v; the record says %+v", err, skew.ErrKubeletNewer, l.record())
	}
	l.cluster, l.clusterErr = nil, errors.New("connection refused")
	if _, err := l.upgrade(next, false); !errors.Is(err, ErrSkew) {
		t.Errorf("while the API server is away: got %v, want %v", err, ErrSkew)
	}
	l.clusterErr = nil
	cluster("v1.34.4", "v1.35.1")
	if err := l.through(next); err != nil {
		t.Fatal(err)
	}
	l.is(slots.B, "1.1", slots.Finished)
	cluster("v1.35.1", "v1.38.0")
	back := Order{Digest: first.Digest, Return: true}
	if err := l.updater().Arm(t.Context(), back); !errors.Is(err, skew.ErrKubeletOlder) || l.record().Step != slots.Finished {
		t.Errorf("going back: got %v, want %v; the record says %+v", err, skew.ErrKubeletOlder, l.record())
	}
	cluster("v1.35.1", "v1.35.1")
	if err := l.updater().Arm(t.Context(), back); err != nil {
		t.Errorf("going back below the server: %v", err)
	}
}

// TestPolicy: each refusal is the error that its documentation names. TestAccept
// has the statements that allow downgrades.
func TestPolicy(t *testing.T) {
	b := Boot{Slot: slots.A, Kind: slots.Committed, Digest: "sha256:now", Stream: "lab", Release: "1.2", Arch: "arm64", Board: "rpi4"}
	on := func(change func(*Boot)) Boot {
		changed := b
		change(&changed)
		return changed
	}
	c := func(change func(*image.Manifest)) Candidate {
		m := &image.Manifest{Stream: "lab", Release: "1.3", Arch: "arm64", Boards: []string{"rpi4"}}
		change(m)
		return Candidate{Manifest: m, Digest: "sha256:next"}
	}
	good := c(func(*image.Manifest) {})
	same := good
	same.Digest = b.Digest
	failedHere := &slots.Update{Step: slots.Left, Bad: true, Digest: "sha256:next", Release: "1.3", Reason: "fan"}
	cut := &slots.Update{Step: slots.Left, Digest: "sha256:next"}
	firmware := func(board string, f boards.Firmware) error {
		_, err := FirmwareCanTry(board, f)
		return err
	}
	for name, c := range map[string]struct {
		got, want error
	}{
		"nothing against starting":        {mayStart(b, nil, "sha256:next", false), nil},
		"no card":                         {mayStart(on(func(b *Boot) { b.Slot = slots.Net }), nil, "", true), ErrNoCard},
		"in a trial":                      {mayStart(on(func(b *Boot) { b.Kind = slots.Trial }), nil, "", true), ErrInTrial},
		"armed":                           {mayStart(b, &slots.Update{Step: slots.Armed}, "", true), ErrUnderWay},
		"being tried":                     {mayStart(b, &slots.Update{Step: slots.Tried}, "", true), ErrUnderWay},
		"committed before":                {mayStart(b, &slots.Update{Step: slots.Finished, Digest: "sha256:next"}, "sha256:next", false), nil},
		"failed here":                     {mayStart(b, failedHere, "sha256:next", false), ErrFailedHere},
		"failed here, once more":          {mayStart(b, failedHere, "sha256:next", true), nil},
		"another one failed here":         {mayStart(b, failedHere, "sha256:other", false), nil},
		"interrupted here":                {mayStart(b, cut, "sha256:next", false), nil},
		"acceptable":                      {b.Accept(good, Order{}), nil},
		"it runs":                         {b.Accept(same, Order{}), ErrRuns},
		"it runs, and the slot is wanted": {b.Accept(same, Order{Return: true}), nil},
		"another stream":                  {b.Accept(c(func(m *image.Manifest) { m.Stream = "cabin" }), Order{}), ErrStream},
		"another architecture":            {b.Accept(c(func(m *image.Manifest) { m.Arch = "riscv64" }), Order{}), ErrMachine},
		"another board":                   {b.Accept(c(func(m *image.Manifest) { m.Boards = []string{"rpi5"} }), Order{}), ErrMachine},
		"an unknown board":                {on(func(b *Boot) { b.Board = "" }).Accept(good, Order{}), nil},
		"older":                           {b.Accept(c(func(m *image.Manifest) { m.Release = "1.1" }), Order{}), ErrOlder},
		"older in a channel":              {b.Accept(c(func(m *image.Manifest) { m.Release = "1.1" }), Order{Channel: "stable"}), ErrOlder},
		"older, and the slot is wanted":   {b.Accept(c(func(m *image.Manifest) { m.Release = "1.1" }), Order{Return: true}), nil},
		"the slot holds it":               {holds(good, "sha256:next"), nil},
		"any image will do":               {holds(good, ""), nil},
		"the slot holds another image":    {holds(good, "sha256:other"), ErrOtherImage},
		"healthy":                         {healthy([]node.Check{{Name: "fan", OK: true}}), nil},
		"unhealthy":                       {healthy([]node.Check{{Name: "fan"}}), ErrUnhealthy},
		"unhealthy from outside":          {healthy([]node.Check{{Name: "nas", Outside: true}}), ErrUnhealthy},
		"an EEPROM that is too old":       {firmware("rpi4", boards.Firmware{Built: 1}), ErrFirmware},
		"an EEPROM of unknown age":        {firmware("rpi4", boards.Firmware{}), nil},
		"the firmware of no known board":  {firmware("", boards.Firmware{}), nil},
	} {
		if !errors.Is(c.got, c.want) || c.want == nil && c.got != nil {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	if got := hint.Of(b.Accept(c(func(m *image.Manifest) { m.Release = "1.1" }), Order{})); len(got) != 1 {
		t.Errorf("the advice about a downgrade is %q, want one", got)
	}
}
