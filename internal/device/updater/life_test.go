package updater

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/reboot"
	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/powercut"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

const secret = "psk: \"the secret of this network\""

// newCard returns a card as it is flashed, with an image on slot a.
func newCard(t testing.TB, img image.Image) (*powercut.Card, disk.Table) {
	t.Helper()
	card := powercut.NewCard()
	table, err := disk.Card(img.Manifest.SlotSize, disk.StateInImage, 7)
	if err != nil {
		t.Fatal(err)
	}
	p := table.Partitions[disk.Control-1]
	files := slots.Files{Default: slots.A, Bootcode: []byte("bootcode"), Node: []byte("hostname: attic\nwifi: {" + secret + "}\n")}
	control, contents, err := sizesOf(t, img).Control(files, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := control.Write(io.NewOffsetWriter(card, p.Start), contents); err != nil {
		t.Fatal(err)
	}
	if _, err := card.WriteAt(table.Encode(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteSlot(context.Background(), powercut.Record(card), img, slots.A, table.Partitions[disk.SlotA-1]); err != nil {
		t.Fatal(err)
	}
	return card, table
}

// life is a simulated node: a card, a model of the firmware, and what its images
// do. Its clock moves only where it waits.
type life struct {
	t        testing.TB
	card     *powercut.Recorder
	firmware vm.Firmware
	keys     []*ecdsa.PublicKey
	images   map[string]image.Image // by digest
	well     map[string]bool        // images whose checks hold, by digest
	outside  bool                   // what fails does so outside the node
	soak     time.Duration
	again    bool                                  // releases that failed are taken again
	board    string                                // that it is
	info     func(io.Reader) (cmdline.Info, error) // what an initramfs says; nil reads it

	boot    Boot
	release string  // that runs
	asked   *string // what the firmware is told when the node restarts; nil while it runs
	now     time.Duration
	good    time.Duration // when the checks first held on this boot; -1
	reports []string
	kill    func(step string) // may panic with killed
	full    bool              // state is full

	cluster    *skew.Cluster // that the node has a part in; nil for none
	clusterErr error

	unreachable bool // the registry is
	opened      int  // files of the image

	strategy string   // by which upgrades are brought: one of patch's names; "" is the whole image
	tried    []string // strategies that worked, or failed
}

// killed is what a process ends with that is killed.
type killed struct{}

func newLife(t testing.TB, first image.Image) *life {
	t.Helper()
	key, err := testKey()
	if err != nil {
		t.Fatal(err)
	}
	card, _ := newCard(t, first)
	return &life{
		t: t, card: powercut.Record(card), firmware: powercut.Firmwares[0].Firmware, keys: publics(key),
		images: map[string]image.Image{first.Digest: first}, well: map[string]bool{first.Digest: true},
		soak: 10 * time.Second, board: "rpi3",
	}
}

// add makes an image known, whose checks hold or do not.
func (l *life) add(img image.Image, well bool) image.Image {
	l.images[img.Digest], l.well[img.Digest] = img, well
	return img
}

func (l *life) table() disk.Table {
	t, err := disk.ReadTable(l.card.Card)
	if err != nil {
		l.t.Fatal(err)
	}
	return t
}

// Checks implements Node.
func (l *life) Checks(context.Context) []node.Check {
	l.step("checks")
	if !l.well[l.boot.Digest] {
		l.good = -1
		return []node.Check{{Name: "state", OK: true}, {Name: "volume", Says: "it never comes", Outside: l.outside}}
	}
	if l.good < 0 {
		l.good = l.now
	}
	if l.now-l.good >= l.soak {
		l.card.Fact(powercut.Well + l.boot.Digest)
		l.good = l.now + 1<<40 // once is enough
	}
	return []node.Check{{Name: "state", OK: true}, {Name: "volume", OK: true}}
}

// Cluster implements Node.
func (l *life) Cluster(context.Context) (*skew.Cluster, error) { return l.cluster, l.clusterErr }

// Restart implements Node.
func (l *life) Restart(argument string) error {
	l.step("restart")
	l.asked = &argument
	return nil
}

// LastLog implements Node.
func (l *life) LastLog() string { return "the log" }

// Report implements Node.
func (l *life) Report(text string) error {
	l.step("report")
	l.reports = append(l.reports, text)
	err := WriteControl(l.card, l.table(), slots.ReportFile, text)
	if l.full {
		err = errors.Join(err, errors.New("no space left on device"))
	}
	return err
}

func (l *life) BeforeArming(slots.Update) error {
	l.step("before arming")
	if l.full {
		return errors.New("no space left on device")
	}
	return nil
}
func (l *life) Alive() { l.step("alive") }

// Committed implements Node.
func (l *life) Committed() error {
	l.boot.Kind = slots.Committed
	l.step("committed")
	return nil
}
func (l *life) Elapsed() time.Duration { return l.now }

func (l *life) Sleep(_ context.Context, d time.Duration) bool {
	l.now += d
	return true
}

func (l *life) step(name string) {
	if l.kill != nil {
		l.kill(name)
	}
}

// survive runs what pikeletd does, and reports whether it was killed.
func survive(do func() error) (err error, dead bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(killed); !ok {
				panic(r)
			}
			dead = true
		}
	}()
	return do(), false
}

// start is the firmware and /init: it finds out which slot runs.
func (l *life) start(argument string, reset Reset) bool {
	l.asked, l.good = nil, -1
	req := vm.Request{Tryboot: argument == reboot.Tryboot}
	n, err := l.firmware.Starts(l.card.Card, req)
	if err != nil {
		l.t.Errorf("nothing starts: %v", err)
		return false
	}
	slot, _ := slots.OfPartition(n)
	digest, err := powercut.Whole(l.card.Card, slot, l.keys, l.firmware)
	if err != nil {
		l.t.Errorf("slot %s starts, and is not whole: %v", slot, err)
		return false
	}
	kind := slots.KindOf(slot, slots.Default(l.card, l.table()), req.Tryboot)
	l.release = l.images[digest].Manifest.Release
	l.boot = Boot{
		Slot: slot, Kind: kind, Digest: digest, Keys: l.keys, Stream: "lab", Release: l.release,
		Arch: "arm64", Board: l.board, Reset: reset,
	}
	return true
}

func (l *life) updater() *Updater {
	return &Updater{
		Card: l.card, Table: l.table(), Boot: l.boot, Node: l, Log: slog.New(slog.DiscardHandler),
		Soak: l.soak, Deadline: time.Minute, info: l.info,
	}
}

// run is the life of pikeletd until nothing happens any more: it concludes,
// restarts where it is killed, and the node with it where it asks for that. It
// returns false where it never comes to rest.
func (l *life) run() bool {
	for range 60 {
		_, dead := survive(func() error { return l.updater().Conclude(context.Background()) })
		switch {
		case dead:
			continue // whoever watches over it starts it again
		case l.asked == nil:
			return true
		}
		if !l.start(*l.asked, Watchdog) {
			return false
		}
	}
	return false
}

// upgrade is the verb.
func (l *life) upgrade(img image.Image, drill bool) (Written, error) {
	u := l.updater()
	var w Written
	err, dead := survive(func() error {
		l.step("idle")
		err := u.MayStart(img.Digest, l.again)
		if err != nil {
			return err
		}
		if w, err = l.bring(u, img); err != nil {
			return err
		}
		return u.Arm(context.Background(), Order{Digest: img.Digest, Drill: drill, Again: l.again})
	})
	if dead {
		err = errors.New("killed")
	}
	return w, err
}

// through starts an upgrade, and goes on until it came to its end.
func (l *life) through(img image.Image) error {
	if _, err := l.upgrade(img, false); err != nil {
		return err
	}
	if l.asked == nil {
		return nil
	}
	if !l.start(*l.asked, Watchdog) {
		return errors.New("the node does not start")
	}
	if !l.run() {
		return errors.New("the node never comes to rest")
	}
	return nil
}

// record is what the card says of the last upgrade.
func (l *life) record() slots.Update {
	if u := slots.ReadCard(l.card.Card).Update; u != nil {
		return *u
	}
	return slots.Update{}
}

// is fails the test unless a slot runs, with a release and a step of the last
// upgrade.
func (l *life) is(slot slots.Letter, release string, step slots.Step) {
	l.t.Helper()
	u := l.record()
	if l.boot.Slot != slot || l.release != release || u.Step != step {
		l.t.Errorf("slot %s runs release %s, the record says %+v; want slot %s, release %s, %s", l.boot.Slot, l.release, u, slot, release, step)
	}
}

func release(n int) string { return fmt.Sprintf("1.%d", n) }

// vmRequest is a start after the power came back.
var vmRequest = vm.Request{}
