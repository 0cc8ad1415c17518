package cli

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/layers/apk"
)

// TestReplayedIndex: a mirror that shows an index of before a fix, signed and with the same newest package, is found out;
// lock and outdated refuse it, and a flag takes it.
func TestReplayedIndex(t *testing.T) {
	s := newShelf(t)
	files := http.FileServer(http.Dir(s.dir + "/repo"))
	replayed := "" // what the mirror shows in place of the index
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if replayed != "" && strings.HasSuffix(r.URL.Path, "/APKINDEX.tar.gz") {
			w.Write([]byte(replayed))
			return
		}
		files.ServeHTTP(w, r)
	}))
	defer mirror.Close()
	index := func() string { return mustRead(t, s.dir+"/repo/aarch64/APKINDEX.tar.gz") }
	s.spec("packages: [tool]\n")
	edit(t, s.dir+"/image.yaml", "url: repo", "url: "+mirror.URL)

	s.index.Written = 1700000100
	s.add(apk.Package{Name: "tool"}) // each is as old as any other
	before := index()
	s.index.Written = 1700000200
	s.add(apk.Package{Name: "tool", Version: "2-r0"})
	ok(t, s.dir, "lock", "image.yaml")
	pinned := mustRead(t, s.dir+"/image.yaml.lock")
	for _, want := range []string{"    digest: sha256:", "    written: 1700000200\n", "    newest: 1700000000\n"} {
		if !strings.Contains(pinned, want) {
			t.Errorf("the lock has no %q:\n%s", want, pinned)
		}
	}

	replayed = before
	for _, command := range []string{"lock", "outdated"} {
		fails(t, s.dir, []string{command, "image.yaml"},
			"or an old one shown again: this one was made 2023-11-14 22:15, and that 2023-11-14 22:16",
			"hint: ask another mirror; pikelet lock --allow-older takes")
	}
	if mustRead(t, s.dir+"/image.yaml.lock") != pinned {
		t.Error("the lock was written all the same")
	}
	out := ok(t, s.dir, "lock", "--allow-older", "image.yaml")
	if !strings.Contains(out, "~ tool 2-r0 -> 1-r0") || !strings.Contains(out, "taking an older index") {
		t.Errorf("taken all the same, it says\n%s", out)
	}

	// An index without a time, as pikelet vendor makes: a package that goes back tells.
	replayed, s.index.Written = "", 0
	s.writeIndex()
	fails(t, s.dir, []string{"lock", "image.yaml"}, "this one does not say when it was made")
	ok(t, s.dir, "lock", "--allow-older", "image.yaml")
	replayed = index()
	s.add(apk.Package{Name: "tool", Version: "3-r0"})
	replayed, before = "", replayed
	ok(t, s.dir, "lock", "image.yaml")
	replayed = before
	fails(t, s.dir, []string{"lock", "image.yaml"}, "tool would go back from 3-r0 to 2-r0")
}
