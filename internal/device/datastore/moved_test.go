package datastore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// newFiles makes a server directory with files.
func newFiles(t *testing.T, names ...string) string {
	t.Helper()
	server := filepath.Join(t.TempDir(), "server")
	for _, name := range append([]string{"token"}, names...) {
		name = filepath.Join(server, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return server
}

// TestFence: a mark is there once, whole, and for one node.
func TestFence(t *testing.T) {
	server := newFiles(t)
	if m, err := Fenced(server); m != nil || err != nil {
		t.Fatalf("before: got %v, %v", m, err)
	}
	at := time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC)
	first := Moved{ID: "01", To: "loft", At: at}
	if got, err := Fence(server, first); err != nil || got != first {
		t.Fatalf("got %v, %v", got, err)
	}
	// The command that was interrupted asks again, with another id.
	if got, err := Fence(server, Moved{ID: "02", To: "loft", At: at.Add(time.Hour)}); err != nil || got != first {
		t.Errorf("once more: got %v, %v, want %v", got, err, first)
	}
	if _, err := Fence(server, Moved{ID: "03", To: "attic"}); !errors.Is(err, ErrMoved) {
		t.Errorf("to another node: got error %v, want %v", err, ErrMoved)
	}
	if got, err := Fenced(server); err != nil || got == nil || *got != first {
		t.Errorf("got %v, %v, want %v", got, err, first)
	}
	if err := Unfence(server); err != nil {
		t.Error(err)
	}
	if err := Unfence(server); err != nil {
		t.Errorf("once more: %v", err)
	}
	if m, err := Fenced(server); m != nil || err != nil {
		t.Errorf("after: got %v, %v", m, err)
	}
}

// TestDamagedMark: what cannot be read is no leave to start.
func TestDamagedMark(t *testing.T) {
	for _, text := range []string{"", "{", "{}", `{"to":"loft"}`} {
		server := newFiles(t, moved)
		if err := os.WriteFile(filepath.Join(server, moved), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Fenced(server); err == nil {
			t.Errorf("%q is read as a mark", text)
		}
		if _, err := Fence(server, Moved{ID: "01", To: "loft"}); err == nil {
			t.Errorf("%q is written over", text)
		}
	}
}

// TestDiscard: only a server that has moved is removed, and its mark stays.
func TestDiscard(t *testing.T) {
	server := newFiles(t, "db/state.db", "tls/server-ca.key", copies+"/000001-1.6-a/db/state.db")
	if err := Discard(server); err == nil || !exists(filepath.Join(server, "token")) {
		t.Fatalf("a server that has not moved is discarded: %v", err)
	}
	if _, err := Fence(server, Moved{ID: "01", To: "loft"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Discard(server); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"token", "db", "tls", copies + "/000001-1.6-a"} {
		if exists(filepath.Join(server, name)) {
			t.Errorf("%s stays", name)
		}
	}
	if m, err := Fenced(server); err != nil || m == nil {
		t.Errorf("the mark: got %v, %v", m, err)
	}
}

// TestDrop: what is dropped is not adopted.
func TestDrop(t *testing.T) {
	server := newFiles(t)
	if err := Drop(server); err != nil {
		t.Errorf("with nothing to drop: %v", err)
	}
	if err := os.Mkdir(Restored(server), 0o700); err != nil {
		t.Fatal(err)
	}
	if Next(server) != Restored(server) {
		t.Errorf("got %s next", Next(server))
	}
	if err := Drop(server); err != nil {
		t.Fatal(err)
	}
	if aside, err := Adopt(server); aside != "" || err != nil || Next(server) != server || !exists(filepath.Join(server, "token")) {
		t.Errorf("got %q, %v", aside, err)
	}
}
