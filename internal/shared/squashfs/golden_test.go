package squashfs

import (
	"crypto/sha256"
	"fmt"
	"testing"
)

// TestGolden: a writer, or an encoder, that makes other bytes of the same tree
// takes another Generation. Nodes that have another one would write a root
// that is not signed.
func TestGolden(t *testing.T) {
	golden := map[int]map[string]string{
		3: {"fast": "c404fe612befde7c19449d7a73bc413166b40b6fe6fe4b36591d05535ddbf513",
			"small": "fa7ffc3dffc5d27ce127182f3d0b9a706b9b5dc69fdf8ac5929b9fc39bdf6f93"},
	}
	for _, c := range []Compression{Fast(), Small()} {
		t.Run(c.Name, func(t *testing.T) {
			got := fmt.Sprintf("%x", sha256.Sum256(contents(t, write(t, corners(), Options{Compression: c, Workers: 2}))))
			if want := golden[Generation][c.Name]; got != want {
				t.Errorf("generation %d makes %s, and made %s: raise Generation, and add a line", Generation, got, want)
			}
		})
	}
}
