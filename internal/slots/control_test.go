package slots

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/disk"
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
		if got.State != StateMade || got.Update == nil || got.Update.Digest != u.Digest || !got.Update.Bad || got.Update.Reason == "" || u.Reason != reason {
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

// unreadable is a card of which a record can't be read.
type unreadable struct {
	*os.File
	at int64
}

func (u unreadable) ReadAt(b []byte, at int64) (int, error) {
	if at == u.at {
		return 0, errors.New("input/output error")
	}
	return u.File.ReadAt(b, at)
}

// TestUnreadableRecord: where a record can't be read, none is written: what it
// says, such as that there is a state partition to be kept, would be lost.
func TestUnreadableRecord(t *testing.T) {
	f := emptyCard(t)
	for range 2 {
		if err := ChangeCard(f, func(c *Card) { c.State = StateMade }); err != nil {
			t.Fatal(err)
		}
		for _, at := range cardRecords {
			if err := ChangeCard(unreadable{f, at}, func(c *Card) { c.Update = &Update{Step: Armed} }); err == nil {
				t.Error("a record was written over one that can't be read")
			}
		}
	}
	if got := ReadCard(f); got.State != StateMade || got.Update != nil {
		t.Errorf("%+v", got)
	}
}
