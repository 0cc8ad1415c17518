package script

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/pikelet-os/pikelet/internal/testing/storetest"
	"github.com/pikelet-os/pikelet/layers"
)

// FuzzRun: no script panics or hangs, and what it does is the same each time. What is
// refused changes nothing; there is no second user 0 and no account without a password.
func FuzzRun(f *testing.F) {
	files, _ := filepath.Glob("testdata/scripts/*.txtar")
	for _, name := range files {
		a, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, one := range a.Files {
			if strings.HasSuffix(one.Name, ".sh") {
				f.Add(one.Data)
			}
		}
	}
	for _, c := range hostile {
		if len(c.script) < 4096 {
			f.Add([]byte(c.script))
		}
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		kept := storetest.File(t, 1<<26)
		once := func() (Result, []byte, *layers.Tree) {
			tree := newTree(t, kept)
			before := tree.Listing()
			res, err := Run(context.Background(), tree, NewAccounts(nil, epoch), script, options("1"))
			after := tree.Listing()
			if (err != nil || res.Refusal != nil) && !bytes.Equal(before, after) {
				t.Errorf("%v, %v, and the tree has changed", res.Refusal, err)
			}
			return res, after, tree
		}
		res, listing, tree := once()
		if res.Refusal != nil && res.Refusal.Kind == Bug {
			t.Errorf("%v", res.Refusal)
		}
		if again, same, _ := once(); !bytes.Equal(listing, same) || again.Status != res.Status || again.Output != res.Output {
			t.Errorf("it does something else the second time")
		}
		v := newView(tree, &machine{})
		if users := v.superusers(); len(users) > 1 {
			t.Errorf("users 0: %v", users)
		}
		if open := v.open(); len(open) > 0 {
			t.Errorf("without a password: %v", open)
		}
	})
}
