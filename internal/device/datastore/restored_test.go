package datastore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestAdoptThroughPowerCuts: wherever adopting was cut off, the next boot ends it,
// and what was there before is kept once.
func TestAdoptThroughPowerCuts(t *testing.T) {
	for name, cut := range map[string]func(server string) error{
		"before it":       func(string) error { return nil },
		"after the first": func(server string) error { return os.Rename(server, server+".replaced-1") },
		"at its end": func(server string) error {
			return errors.Join(os.Rename(server, server+".replaced-1"), os.Rename(Restored(server), server))
		},
	} {
		server := filepath.Join(t.TempDir(), "server")
		for dir, text := range map[string]string{server: "old", Restored(server) + ".part": "new"} {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "token"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := Prepare(Restored(server), Restored(server)+".part"); err != nil {
			t.Fatal(err)
		}
		if err := cut(server); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := Adopt(server); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		for file, want := range map[string]string{server: "new", server + ".replaced-1": "old"} {
			if got, err := os.ReadFile(filepath.Join(file, "token")); err != nil || string(got) != want {
				t.Errorf("%s: %s: got %q, %v, want %q", name, file, got, err, want)
			}
		}
		if exists(Restored(server)) || exists(server+".replaced-2") {
			t.Errorf("%s: something is left to be adopted, or was put aside twice", name)
		}
	}
}
