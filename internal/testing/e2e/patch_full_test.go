//go:build full

package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDamagedSlotFallsBackToChangedFiles: a block of the node's slot that a patch
// needs is damaged. The node fetches the files that changed instead, and commits
// the release. (TestUpgradeCommitsAndRollsBack applies patches to intact slots.)
func TestDamagedSlotFallsBackToChangedFiles(t *testing.T) {
	t.Parallel()
	s, at := startRegistry(t)
	// What nothing compresses lies in the root as it is.
	data := make([]byte, 3<<20)
	for i, r := 0, rand.New(rand.NewPCG(1, 1)); i < len(data); i++ {
		data[i] = byte(r.Uint32())
	}
	release := func(number string) string {
		dir := filepath.Join(t.TempDir(), "usr/share")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		copy(data[2<<20:], "data of release "+number)
		if err := os.WriteFile(filepath.Join(dir, "data"), data, 0o644); err != nil {
			t.Fatal(err)
		}
		b := variant(t, "release: \"1.2\"\n", fmt.Sprintf("release: %q\nhealth: {soak: 5s, deadline: 10m}\nlayers: [{folder: %s}]\n",
			number, strings.TrimSuffix(dir, "/usr/share")))
		published(t, s, b.Artifact.Dir)
		return cardOf(t, b)
	}
	card := release("1.2")
	b, err := os.ReadFile(card)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(b, data[1<<20:1<<20+4096])
	if i < 0 {
		t.Fatal("the data is not on the card")
	}
	f, err := os.OpenFile(card, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{b[i] ^ 1}, int64(i)); err != nil {
		t.Fatal(err)
	}
	release("1.3")
	p := boot(t, card)
	p.prompt()
	p.run("pikeletd upgrade --plain-http "+at+":1.3", "by a patch: ",
		"strategy failed, trying the next one strategy=\"a patch\" next=\"the files that changed\": ", "block does not match its signed hash",
		"all of it reads back as it should", "small 1.3, slot b (trial), root verified", "release is committed: all checks held release=1.3")
}
