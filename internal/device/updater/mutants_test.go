package updater

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/powercut"
)

// mutant is a mistake that the proof must find: in what is done to a card, or
// in what the node does.
type mutant struct {
	want string // a part of what the proof says
	ops  func(r record) []powercut.Op
	life func(*life)
}

// part returns a part of a run's card.
func part(r record, name string) powercut.Part {
	return r.run.Parts[slices.IndexFunc(r.run.Parts, func(p powercut.Part) bool { return p.Name == name })]
}

func in(o powercut.Op, p powercut.Part) bool { return o.Data != nil && o.At >= p.Start && o.At < p.End }

// without leaves operations away.
func without(ops []powercut.Op, not func(i int, o powercut.Op) bool) []powercut.Op {
	var list []powercut.Op
	for i, o := range ops {
		if !not(i, o) {
			list = append(list, o)
		}
	}
	return list
}

// mutants are the mistakes. Those in ops are what a program that made them
// would have done to the card.
var mutants = map[string]mutant{
	"commit before flush": {want: "unbootable", ops: func(r record) []powercut.Op {
		// From the slot's writes to its commit nothing is flushed, so the commit
		// may be on the card before them.
		b := part(r, "slot b")
		first := slices.IndexFunc(r.run.Ops, func(o powercut.Op) bool { return in(o, b) })
		commit := first + slices.IndexFunc(r.run.Ops[first:], func(o powercut.Op) bool { return in(o, part(r, "commit")) })
		return without(r.run.Ops, func(i int, o powercut.Op) bool { return o.Flush && i > first+8 && i < commit })
	}},
	"no flush": {want: "unbootable", ops: func(r record) []powercut.Op {
		return without(r.run.Ops, func(i int, o powercut.Op) bool { return o.Flush })
	}},
	"rename instead of overwrite": {want: "unbootable", ops: renamed},
	"first sector not last": {want: "half written", ops: func(r record) []powercut.Op {
		// It is written first of all that is written to the slot.
		b := part(r, "slot b")
		ops := slices.Clone(r.run.Ops)
		is := func(o powercut.Op) bool { return in(o, b) && o.At == b.Start && o.Data[510] == 0x55 }
		last := slices.IndexFunc(ops, is)
		first := ops[last]
		ops = slices.Delete(ops, last, last+1)
		at := slices.IndexFunc(ops, func(o powercut.Op) bool { return in(o, b) && o.At > b.Start+8*disk.SectorSize })
		return slices.Insert(ops, at, first)
	}},
	"backup boot sector kept": {want: "one that reads copies: slot b is half written", ops: func(r record) []powercut.Op {
		b := part(r, "slot b")
		return without(r.run.Ops, func(i int, o powercut.Op) bool {
			return in(o, b) && o.At == b.Start+6*disk.SectorSize && len(bytes.Trim(o.Data, "\x00")) == 0
		})
	}},
	"records not alternating": {want: "says nothing any more", ops: func(r record) []powercut.Op {
		ops := slices.Clone(r.run.Ops)
		for i := range ops {
			if ops[i].At == disk.UpdateRecord1 {
				ops[i].At = disk.UpdateRecord0
			}
		}
		return ops
	}},
	"tryboot naming the running slot": {want: "and the trial is of partition", ops: func(r record) []powercut.Op {
		ops := slices.Clone(r.run.Ops)
		for i, o := range ops {
			if in(o, part(r, "commit")) {
				def, err := slots.DecodeAutoboot(o.Data)
				if err != nil {
					panic(err)
				}
				right := fmt.Sprintf("[tryboot]\nboot_partition=%d", def.Other().Partition())
				ops[i].Data = bytes.Replace(o.Data, []byte(right), []byte(fmt.Sprintf("[tryboot]\nboot_partition=%d", def.Partition())), 1)
			}
		}
		return ops
	}},
	"scrub by delete": {want: "the secret is still on the card", ops: func(r record) []powercut.Op {
		at, size, err := slots.ControlFile(r.run.Base, tableOf(r), slots.NodeFile)
		if err != nil {
			panic(err)
		}
		ops := without(r.run.Ops, func(i int, o powercut.Op) bool { return o.Data != nil && o.At >= at && o.At < at+size })
		v, dir := controlDir(r)
		entry := bytes.Index(dir, []byte("NODE    YAM"))
		if entry < 0 {
			entry = bytes.Index(dir, []byte("NODE~1  YAM"))
		}
		dir[entry] = 0xe5
		return slices.Insert(ops, 0, powercut.Op{At: v, Data: dir}, powercut.Op{Flush: true})
	}},
	"arm before verify": {want: "slot b is armed, and ", life: func(l *life) {
		// The card does not keep a byte of the new root, and it is not read back.
		img := l.add(newImage(l.t, "1.1"), true)
		p := l.table().Partitions[disk.SlotB-1]
		layout, err := sizesOf(l.t, img).Slot(slots.B, p)
		if err != nil {
			l.t.Fatal(err)
		}
		l.card.Rots = p.Start + layout.Offset("root.squashfs") + 100_000
		u := l.updater()
		if _, err := u.Bring(context.Background(), img); err == nil {
			l.t.Fatal("a card that keeps nothing was good enough")
		}
		if err := u.note(slots.Update{Step: slots.Armed, Slot: slots.B, Digest: img.Digest, Release: "1.1"}); err != nil {
			l.t.Fatal(err)
		}
	}},
	"commit before healthy": {want: "never was well", life: func(l *life) {
		img := l.add(newImage(l.t, "1.1"), false)
		if _, err := l.upgrade(img, false); err != nil {
			l.t.Fatal(err)
		}
		l.start(*l.asked, Watchdog)
		if err := l.updater().commit(l.record()); err != nil { // and asks for no check
			l.t.Fatal(err)
		}
	}},
}

func tableOf(r record) disk.Table {
	t, err := disk.ReadTable(r.run.Base)
	if err != nil {
		panic(err)
	}
	return t
}

// controlDir returns where the first sectors of the control partition's root
// directory are, and what they hold.
func controlDir(r record) (at int64, dir []byte) {
	p := tableOf(r).Partitions[disk.Control-1]
	boot := make([]byte, 512)
	r.run.Base.ReadAt(boot, p.Start)
	reserved, each := int64(boot[14])|int64(boot[15])<<8, int64(boot[36])|int64(boot[37])<<8|int64(boot[38])<<16
	at = p.Start + (reserved+2*each)*512
	dir = make([]byte, 512)
	r.run.Base.ReadAt(dir, at)
	return at, dir
}

// renamed commits as programs replace files that no other program reads: a new
// file beside the old one, a flush, and a rename. On FAT that is a cluster, an
// entry of both FATs and one of the directory, and nothing orders them on the
// card but more flushes.
func renamed(r record) []powercut.Op {
	p := tableOf(r).Partitions[disk.Control-1]
	v, err := fat.Open(powercut.Sub(r.run.Base, p.Start))
	if err != nil {
		panic(err)
	}
	_, runs, err := v.Extents(slots.AutobootFile, slots.AutobootSize)
	if err != nil {
		panic(err)
	}
	at, dir := controlDir(r)
	boot := make([]byte, 512)
	r.run.Base.ReadAt(boot, p.Start)
	reserved, each, per := int64(boot[14])|int64(boot[15])<<8, int64(boot[36])|int64(boot[37])<<8, int64(boot[13])
	data := p.Start + (reserved+2*each)*512
	cluster := uint32((p.Start+runs[0].Offset-data)/(per*512)) + 2
	fresh := cluster + 1 // autoboot.txt lies apart from everything, so this one is free
	table := make([]byte, 512)
	sector := p.Start + (reserved+int64(cluster)/128)*512
	r.run.Base.ReadAt(table, sector)
	copy(table[4*(fresh%128):], []byte{0xff, 0xff, 0xff, 0x0f})
	entry := bytes.Index(dir, []byte("AUTOBOOTTXT"))
	dir[entry+26], dir[entry+27], dir[entry+20], dir[entry+21] = byte(fresh), byte(fresh>>8), byte(fresh>>16), byte(fresh>>24)
	var ops []powercut.Op
	for _, o := range r.run.Ops {
		if !in(o, part(r, "commit")) {
			ops = append(ops, o)
			continue
		}
		ops = append(ops,
			powercut.Op{At: data + int64(fresh-2)*per*512, Data: o.Data},
			powercut.Op{At: sector, Data: table}, powercut.Op{At: sector + each*512, Data: table},
			powercut.Op{At: at, Data: dir})
	}
	return ops
}

// TestMutants: every mistake turns the proof red, and the same node without it
// does not.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs mtools, and time")
	}
	plain := func(change func(*life)) record {
		l := newLife(t, newImage(t, "1.0"))
		l.start("", PowerOn)
		well := []string{l.boot.Digest}
		if change != nil {
			change(l)
		} else {
			l.firstYear()
		}
		parts, err := powercut.CardParts(l.card.Base)
		if err != nil {
			t.Fatal(err)
		}
		return record{powercut.Run{Base: l.card.Base, Ops: l.card.Ops, Parts: parts, Seed: 1, Other: 100, Only: -1}, well}
	}
	judge := func(r record) *tally {
		y := newTally()
		y.judge(t, r, "0.0")
		return y
	}
	if y := judge(plain(nil)); len(y.problems) > 0 || y.states < 1000 {
		t.Fatalf("without a mistake: %d states, %s", y.states, strings.Join(y.problems, "\n"))
	}
	for name, m := range mutants {
		t.Run(name, func(t *testing.T) {
			r := plain(m.life)
			if m.ops != nil {
				r.run.Ops = m.ops(r)
			}
			y := judge(r)
			if !strings.Contains(strings.Join(y.problems, "\n"), m.want) {
				t.Errorf("%d states, and none shows it: %q", y.states, y.problems[:min(1, len(y.problems))])
				return
			}
			t.Logf("%d of %d states show it, such as: %s", y.unbootable, y.states, y.problems[0])
		})
	}
}

// firstYear is a first boot and four upgrades.
func (l *life) firstYear() {
	steps := []error{
		Scrub(l.card, l.table(), slots.NodeFile, nodeconfig.Taken, func(int64, int64) {}),
	}
	l.card.Fact(powercut.Scrubbed)
	steps = append(steps, slots.ChangeCard(l.card, func(c *slots.Card) { c.State = slots.StateMade }), l.card.Flush())
	for n := 1; n <= 4; n++ {
		steps = append(steps, l.through(l.add(newImage(l.t, release(n)), true)))
	}
	for _, err := range steps {
		if err != nil {
			l.t.Fatal(err)
		}
	}
}
