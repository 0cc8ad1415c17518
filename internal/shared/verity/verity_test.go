package verity

import (
	"bytes"
	"encoding/hex"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestVeritysetupAgrees lets the real tool check trees of sizes around the
// borders of their levels: 128 hashes fill a block.
func TestVeritysetupAgrees(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs veritysetup")
	}
	rnd := rand.New(rand.NewSource(1))
	for _, blocks := range []int{2, 127, 128, 129, 300, 128*128 + 1} {
		data := make([]byte, blocks*BlockSize)
		rnd.Read(data)
		h := NewHasher(Salt())
		for rest := data; len(rest) > 0; { // pieces that end where they like
			n := min(len(rest), 1+rnd.Intn(100_000))
			h.Write(rest[:n])
			rest = rest[n:]
		}
		p, tree, err := h.Tree()
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(tree)) != TreeSize(uint64(blocks)) {
			t.Errorf("%d blocks: the tree has %d bytes, TreeSize says %d", blocks, len(tree), TreeSize(uint64(blocks)))
		}
		image := filepath.Join(t.TempDir(), "root")
		if err := os.WriteFile(image, append(data, tree...), 0o600); err != nil {
			t.Fatal(err)
		}
		verify := func() ([]byte, error) {
			return exec.Command("veritysetup", "verify", "--no-superblock", "--salt="+hex.EncodeToString(p.Salt),
				"--data-blocks="+strconv.Itoa(blocks), "--hash-offset="+strconv.Itoa(len(data)), image, image,
				hex.EncodeToString(p.RootHash)).CombinedOutput()
		}
		if out, err := verify(); err != nil {
			t.Errorf("%d blocks: veritysetup: %v\n%s", blocks, err, out)
		}
		data[blocks*BlockSize/2] ^= 1
		if err := os.WriteFile(image, append(data, tree...), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := verify(); err == nil {
			t.Errorf("%d blocks: veritysetup accepts a flipped bit, so it judges nothing here", blocks)
		}
	}
}

func TestTreeRefusesPartBlocks(t *testing.T) {
	for _, n := range []int{0, 1, BlockSize + 1} {
		h := NewHasher(nil)
		h.Write(make([]byte, n))
		if _, _, err := h.Tree(); err == nil {
			t.Errorf("%d bytes: no error", n)
		}
	}
}

func TestTableNamesWhatTheKernelNeeds(t *testing.T) {
	p := Params{DataBlocks: 7, Salt: []byte{0xab}, RootHash: bytes.Repeat([]byte{1}, 32)}
	want := "1 254:0 254:0 4096 4096 7 7 sha256 " + strings.Repeat("01", 32) + " ab"
	if got := p.Table("254:0"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
