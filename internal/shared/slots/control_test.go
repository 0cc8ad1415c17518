package slots

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
)

// emptyCard returns a card of zeros, in a file.
func emptyCard(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "card"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(4 << 20); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestCardRecord: the newer record wins, writes take turns, and a torn one
// leaves what was before.
func TestCardRecord(t *testing.T) {
	f := emptyCard(t)
	if got := ReadCard(f); got != (Card{}) {
		t.Errorf("an empty card says %+v", got)
	}
	for i, state := range []string{StateMaking, StateMade, StateMaking, StateMade, StateMaking} {
		if err := ChangeCard(f, func(c *Card) { c.State = state }); err != nil {
			t.Fatal(err)
		}
		if got := ReadCard(f).State; got != state {
			t.Errorf("write %d: %q, want %q", i, got, state)
		}
	}
	// Five writes: the last one is in the first place. Torn, the one before
	// counts.
	if _, err := f.WriteAt([]byte("torn"), disk.UpdateRecord0+100-90); err != nil {
		t.Fatal(err)
	}
	if got := ReadCard(f).State; got != StateMade {
		t.Errorf("after a torn write: %q", got)
	}
	if err := ChangeCard(f, func(c *Card) { c.State = StateMaking }); err != nil {
		t.Fatal(err)
	}
	if got := ReadCard(f).State; got != StateMaking {
		t.Errorf("after the next write: %q", got)
	}
}

// TestLongReasons: a reason of any length and any bytes never costs the rest
// of the record.
func TestLongReasons(t *testing.T) {
	for name, reason := range map[string]string{
		"quotes": strings.Repeat(`"<&\\`, 400), "zeros": strings.Repeat("\x00", 1500), "no UTF-8": strings.Repeat("\xff\xc3", 700),
		"very long": strings.Repeat("the volume is away; ", 1000), "short": "the volume is away",
	} {
		f := emptyCard(t)
		u := Update{Step: Left, Slot: B, Digest: "sha256:" + strings.Repeat("ab", 32), Release: "1.2.3", Reason: reason, Bad: true}
		if err := ChangeCard(f, func(c *Card) { *c = Card{State: StateMade, Update: &u} }); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := ReadCard(f)
		if got.State != StateMade || got.Update == nil || got.Update.Digest != u.Digest || !got.Update.Bad || got.Update.Reason == "" ||
			u.Reason != reason {
			t.Errorf("%s: %+v", name, got)
		}
		if name == "short" && got.Update.Reason != reason {
			t.Errorf("a short reason became %q", got.Update.Reason)
		}
	}
	f := emptyCard(t)
	if err := ChangeCard(f, func(c *Card) { c.State = strings.Repeat("x", MaxRecordText) }); err == nil {
		t.Error("a record that does not fit is written")
	}
}

// unreadable is a card some places of which give an error when they are read.
type unreadable struct {
	*os.File
	places []int64
}

func (u unreadable) ReadAt(b []byte, at int64) (int, error) {
	if slices.Contains(u.places, at) {
		return 0, errors.New("input/output error")
	}
	return u.File.ReadAt(b, at)
}

// TestOneRecordUnreadable: a place that can't be read is one without a valid
// record. What the other says counts, and upgrades go on; the next record is
// written over the place that can't be read.
func TestOneRecordUnreadable(t *testing.T) {
	for i, lost := range cardRecords {
		f := emptyCard(t)
		for range 2 { // both places hold the same
			if err := ChangeCard(f, func(c *Card) {
				*c = Card{State: StateMade, Update: &Update{Step: Left, Slot: B, Digest: "sha256:bad", Bad: true}}
			}); err != nil {
				t.Fatal(err)
			}
		}
		card := unreadable{f, []int64{lost}}
		if got, err := CardRecord(card); err != nil || got.State != StateMade || got.Update == nil || !got.Update.Bad {
			t.Errorf("place %d unreadable: %+v, %v", i, got, err)
		}
		before := make([]byte, disk.RecordSize)
		if _, err := f.ReadAt(before, cardRecords[1-i]); err != nil {
			t.Fatal(err)
		}
		if err := ChangeCard(card, func(c *Card) { c.Update.Reason = "next" }); err != nil {
			t.Errorf("place %d unreadable: %v", i, err)
		}
		after := make([]byte, disk.RecordSize)
		if _, err := f.ReadAt(after, cardRecords[1-i]); err != nil || !bytes.Equal(before, after) {
			t.Errorf("place %d unreadable: the only good record was written over (%v)", i, err)
		}
		if got := ReadCard(f); got.State != StateMade || got.Update == nil || got.Update.Reason != "next" {
			t.Errorf("place %d, readable again: %+v", i, got)
		}
	}
}

// TestRecordLost: a card that was just flashed has no record; one whose places
// are damaged or unreadable has lost it, and that is told apart. A lost record
// that may come back is not written over: it may say that there is a state
// partition to be kept.
func TestRecordLost(t *testing.T) {
	garbage := func(f *os.File, places ...int64) {
		for _, at := range places {
			if _, err := f.WriteAt([]byte("torn"), at+8); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		damage       func(*os.File)
		unreadable   []int64
		lost, refuse bool
	}{
		"flashed":             {damage: func(*os.File) {}},
		"first write cut off": {damage: func(f *os.File) { garbage(f, cardRecords[0]) }},
		"both damaged":        {damage: func(f *os.File) { garbage(f, cardRecords[:]...) }, lost: true},
		"both unreadable":     {damage: func(*os.File) {}, unreadable: cardRecords[:], lost: true, refuse: true},
		"one damaged, one unreadable": {damage: func(f *os.File) { garbage(f, cardRecords[0]) },
			unreadable: cardRecords[1:], lost: true, refuse: true},
		"one blank, the other unreadable": {damage: func(*os.File) {}, unreadable: cardRecords[:1], lost: true, refuse: true},
	} {
		f := emptyCard(t)
		c.damage(f)
		card := unreadable{f, c.unreadable}
		if got, err := CardRecord(card); got != (Card{}) || errors.Is(err, ErrRecordLost) != c.lost {
			t.Errorf("%s: %+v, %v; lost: %v", name, got, err, c.lost)
		}
		if err := ChangeCard(card, func(c *Card) { c.State = StateMaking }); (err != nil) != c.refuse {
			t.Errorf("%s: writing a record: %v", name, err)
		}
	}
}

// TestUpdateKeptBesideState: changing one part of the record leaves the other.
func TestUpdateKeptBesideState(t *testing.T) {
	f := emptyCard(t)
	for _, change := range []func(*Card){
		func(c *Card) { c.State = StateMade },
		func(c *Card) { c.Update = &Update{Step: Armed, Slot: B} },
	} {
		if err := ChangeCard(f, change); err != nil {
			t.Fatal(err)
		}
	}
	if got := ReadCard(f); got.State != StateMade || got.Update == nil || got.Update.Step != Armed {
		t.Errorf("%+v", got)
	}
}
