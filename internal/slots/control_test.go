package slots

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pikelet-os/pikelet/internal/disk"
)

// TestCardRecord: the newer record wins, writes take turns, and a torn one
// leaves what was before.
func TestCardRecord(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "card"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(4 << 20); err != nil {
		t.Fatal(err)
	}
	if got := ReadCard(f); got != (Card{}) {
		t.Errorf("an empty card says %+v", got)
	}
	for i, state := range []string{StateMaking, StateMade, StateMaking, StateMade, StateMaking} {
		if err := WriteCard(f, Card{State: state}); err != nil {
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
	if err := WriteCard(f, Card{State: StateMaking}); err != nil {
		t.Fatal(err)
	}
	if got := ReadCard(f).State; got != StateMaking {
		t.Errorf("after the next write: %q", got)
	}
}
