package volume

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestGenerations: a volume goes from a board to a later one, and never back.
func TestGenerations(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(allows(dir, 0), mark(dir, 0)); err != nil {
		t.Fatalf("a volume that was never marked: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "pikelet")); err == nil {
		t.Error("the first board marks its volume")
	}
	for _, n := range []int{1, 1, 3} {
		if err := errors.Join(allows(dir, n), mark(dir, n)); err != nil {
			t.Errorf("generation %d: %v", n, err)
		}
	}
	for _, n := range []int{0, 2} {
		if err := allows(dir, n); !errors.Is(err, errReplaced) {
			t.Errorf("generation %d: got error %v, want %v", n, err, errReplaced)
		}
	}
	if err := mark(dir, 2); err != nil || allows(dir, 2) == nil {
		t.Errorf("a mark goes down: %v", err)
	}
	for _, text := range []string{"", "x", "-1"} {
		if err := os.WriteFile(filepath.Join(dir, generationFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if allows(dir, 9) == nil || mark(dir, 9) == nil {
			t.Errorf("the mark %q is taken", text)
		}
	}
}
