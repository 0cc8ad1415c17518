package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// steps is a disk that notes what is done, and fails at one step.
type steps struct {
	list []string
	fail string
}

func (s *steps) do(what string) error {
	s.list = append(s.list, what)
	if what == s.fail {
		return errors.New("input/output error")
	}
	return nil
}

func (s *steps) Write(b []byte) (int, error) { return len(b), s.do("write") }
func (s *steps) Sync() error                 { return s.do("sync") }
func (s *steps) Close() error                { return nil }

func (s *steps) disk() disk {
	return disk{
		create: func(string, fs.FileMode) (file, error) { return s, s.do("create") },
		rename: func(string, string) error { return s.do("rename") },
		sync:   func(string) error { return s.do("sync directory") },
	}
}

// TestWriteSyncsBeforeRename: Write syncs the file before it replaces the old one,
// and the directory before it returns; it stops at the first error.
func TestWriteSyncsBeforeRename(t *testing.T) {
	want := []string{"create", "write", "sync", "rename", "sync directory"}
	s := &steps{}
	if err := write(s.disk(), "dir/file", []byte("x"), 0o600); err != nil || !slices.Equal(s.list, want) {
		t.Errorf("%v (%v), want %v", s.list, err, want)
	}
	for i, step := range want {
		s := &steps{fail: step}
		if err := write(s.disk(), "dir/file", []byte("x"), 0o600); err == nil || !slices.Equal(s.list, want[:i+1]) {
			t.Errorf("%s fails: %v, after %v", step, err, s.list)
		}
	}
}

// TestWrite: what is written is there, with its mode, and nothing beside it.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	for _, text := range []string{"longer than the next", "next"} {
		if err := Write(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		st, statErr := os.Stat(name)
		if err := errors.Join(err, statErr); err != nil || string(got) != text || st.Mode() != 0o600 {
			t.Errorf("%q %v (%v)", got, st, err)
		}
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("%v (%v)", list, err)
	}
	if err := Write(filepath.Join(dir, "none", "file"), nil, 0o600); err == nil {
		t.Error("in a directory that is not there: no error")
	}
}
