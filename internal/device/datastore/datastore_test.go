package datastore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// newServer returns k3s' server directory with a datastore of sqlite.
func newServer(t *testing.T, text string) string {
	t.Helper()
	server := t.TempDir()
	put(t, server, "db/state.db", text)
	put(t, server, "db/state.db-wal", text+" wal")
	put(t, server, "db/snapshots/on-demand", "k3s' own")
	put(t, server, "token", "a token")
	return server
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	name = filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var (
	old = Ran{Slot: "a", Release: "1.0", Digest: "sha256:old", K3s: "v1.31.4+k3s1"}
	now = Ran{Slot: "b", Release: "1.1", Digest: "sha256:new", K3s: "v1.32.1+k3s1"}
)

// upgraded is a server whose upgrade was tried: saved, started with the new
// k3s, and written to.
func upgraded(t *testing.T, new Ran) string {
	t.Helper()
	server := newServer(t, "of 1.0")
	if notice, err := Start(server, old, "", false); err != nil || notice != "" {
		t.Fatal(notice, err)
	}
	if _, err := Save(server, Copy{Slot: "a", Release: "1.0", K3s: old.K3s, For: new.Digest}, 3); err != nil {
		t.Fatal(err)
	}
	if notice, err := Start(server, new, "", false); err != nil || notice != "" {
		t.Fatal(notice, err)
	}
	put(t, server, "db/state.db", "of 1.1")
	return server
}

// TestOtherMinorRestoresTheCopy: the copy is put back, the newer one kept, both are
// said; and only once.
func TestOtherMinorRestoresTheCopy(t *testing.T) {
	server := upgraded(t, now)
	notice, err := Start(server, old, now.Digest, false)
	if err != nil {
		t.Fatal(err)
	}
	copied, aside := filepath.Join(server, "pikelet/000001-1.0-a"), filepath.Join(server, "pikelet/left-1.1-000001")
	if !strings.Contains(notice, copied) || !strings.Contains(notice, aside) || !strings.Contains(notice, "v1.32.1+k3s1") {
		t.Errorf("notice %q", notice)
	}
	if get(t, server, "db/state.db") != "of 1.0" || get(t, server, "db/state.db-wal") != "of 1.0 wal" ||
		get(t, aside, "state.db") != "of 1.1" || get(t, copied, "db/state.db") != "of 1.0" {
		t.Error("not put back")
	}
	put(t, server, "db/state.db", "of 1.0, later")
	if notice, err := Start(server, old, now.Digest, false); err != nil || notice != "" || get(t, server, "db/state.db") != "of 1.0, later" {
		t.Errorf("a second time: %q %v", notice, err)
	}
}

// TestCopyIsNotRestored: the same minor, a release that is kept, onLeft: keep, etcd, and
// no copy.
func TestCopyIsNotRestored(t *testing.T) {
	patch := now
	patch.K3s = "v1.31.5+k3s1"
	for what, c := range map[string]struct {
		new    Ran
		left   string
		keep   bool
		change func(server string)
		want   string
	}{
		"a patch release": {patch, patch.Digest, false, nil, ""},
		"kept":            {now, "", false, nil, ""},
		"another left":    {now, "sha256:other", false, nil, ""},
		"keep":            {now, now.Digest, true, nil, "onLeft is keep"},
		"etcd":            {now, now.Digest, false, func(s string) { put(t, s, "db/etcd/member/wal", "x") }, "etcd"},
		"no copy":         {now, now.Digest, false, func(s string) { os.RemoveAll(filepath.Join(s, "pikelet/000001-1.0-a")) }, "no copy"},
		"half a copy":     {now, now.Digest, false, func(s string) { os.Remove(filepath.Join(s, "pikelet/000001-1.0-a/meta.json")) }, "no copy"},
	} {
		server := upgraded(t, c.new)
		if c.change != nil {
			c.change(server)
		}
		notice, err := Start(server, old, c.left, c.keep)
		if err != nil || !strings.Contains(notice, c.want) || c.want == "" && notice != "" || get(t, server, "db/state.db") != "of 1.1" {
			t.Errorf("%s: %q %v, the datastore is %q", what, notice, err, get(t, server, "db/state.db"))
		}
	}
}

// TestNewestCopiesAreKept: so many copies are kept, the newest; what was not finished counts
// for nothing; a server without a datastore has none.
func TestNewestCopiesAreKept(t *testing.T) {
	server := newServer(t, "x")
	put(t, server, "pikelet/000009-0.9-a.part/db/state.db", "half")
	for n := 1; n <= 5; n++ {
		put(t, server, "db/state.db", fmt.Sprint(n))
		name, err := Save(server, Copy{Slot: "a", Release: fmt.Sprintf("1.%d", n), K3s: "v1.31.4"}, 3)
		if err != nil || get(t, name, "db/state.db") != fmt.Sprint(n) {
			t.Fatal(name, err)
		}
		if _, err := os.Stat(filepath.Join(name, "db/snapshots")); err == nil {
			t.Error("k3s' own snapshots were copied")
		}
	}
	list, err := List(server)
	if err != nil || len(list) != 3 || list[0].Release != "1.3" || list[2].Number != 5 {
		t.Errorf("%+v %v", list, err)
	}
	if dirs, _ := os.ReadDir(filepath.Join(server, "pikelet")); len(dirs) != 3 {
		t.Errorf("%d directories", len(dirs))
	}
	if name, err := Save(t.TempDir(), Copy{}, 3); name != "" || err != nil {
		t.Errorf("without a datastore: %q %v", name, err)
	}
}

// TestInterruptedRestore: wherever the power goes while a copy is put back, the next start
// ends it, with one of the two whole and the newer one not lost.
func TestInterruptedRestore(t *testing.T) {
	for what, leave := range map[string]func(server string){
		"half a copy": func(s string) { put(t, s, "pikelet/restoring.part/state.db", "ha") },
		"a copy, not put aside": func(s string) {
			put(t, s, "pikelet/restoring/state.db", "of 1.0")
		},
		"put aside, nothing there": func(s string) {
			put(t, s, "pikelet/restoring/state.db", "of 1.0")
			if err := os.Rename(filepath.Join(s, "db"), filepath.Join(s, "pikelet/left-1.1-000001")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		server := upgraded(t, now)
		leave(server)
		if _, err := Start(server, old, now.Digest, false); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if got := get(t, server, "db/state.db"); got != "of 1.0" {
			t.Errorf("%s: the datastore is %q", what, got)
		}
		asides, _ := filepath.Glob(filepath.Join(server, "pikelet/left-*/state.db"))
		found := false
		for _, a := range asides {
			found = found || get(t, a) == "of 1.1"
		}
		if !found {
			t.Errorf("%s: what 1.1 wrote is lost: %v", what, asides)
		}
		if rest, _ := filepath.Glob(filepath.Join(server, "pikelet/restoring*")); len(rest) > 0 {
			t.Errorf("%s: %v is left", what, rest)
		}
	}
}

func TestMinor(t *testing.T) {
	for v, want := range map[string]string{
		"k3s version v1.31.4+k3s1 (a562d090)": "1.31", "v1.9.0": "1.9", "1.32.0-rc1": "1.32", "": "", "stand-in": "",
	} {
		if got := Minor(v); got != want {
			t.Errorf("%q is %q", v, got)
		}
	}
}
