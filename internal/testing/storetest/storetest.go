// Package storetest opens stores of file contents for tests.
package storetest

import (
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/layers/store"
)

// File returns a store of at most limit bytes, which is closed at the end of the
// test.
func File(t testing.TB, limit int64) *store.File {
	t.Helper()
	pool, err := store.NewPool(2, squashfs.Fast())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	f, err := pool.Temp(t.TempDir(), store.NewBudget(limit))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Wait(); f.Close() })
	return f
}
