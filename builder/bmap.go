package builder

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
)

// mapBlock is the block size of block maps; bmaptool's own is the same.
const mapBlock = 4096

// extents are ranges of a file, in blocks, from first to last.
type extents [][2]int64

// add notes that n bytes at a place matter.
func (e *extents) add(at, n int64) {
	if n > 0 {
		*e = append(*e, [2]int64{at / mapBlock, (at + n - 1) / mapBlock})
	}
}

// merged sorts the ranges and joins those that touch.
func (e extents) merged() extents {
	sort.Slice(e, func(i, j int) bool { return e[i][0] < e[j][0] })
	var list extents
	for _, r := range e {
		if n := len(list); n > 0 && r[0] <= list[n-1][1]+1 {
			list[n-1][1] = max(list[n-1][1], r[1])
			continue
		}
		list = append(list, r)
	}
	return list
}

// mapped notes what is written through it, zeros included: on a card with an
// earlier life they must be written too.
type mapped struct {
	w io.WriterAt
	extents
}

func (m *mapped) WriteAt(p []byte, at int64) (int, error) {
	m.add(at, int64(len(p)))
	return m.w.WriteAt(p, at)
}

// writeBmap writes the block map of an image, format 2.0, as bmaptool reads
// it: which blocks to write, with a hash of each range, and a hash of the map
// itself with that hash's place zeroed.
func writeBmap(image, name string, list extents) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	blocks := (st.Size() + mapBlock - 1) / mapBlock
	var ranges bytes.Buffer
	count := int64(0)
	for _, r := range list.merged() {
		r[1] = min(r[1], blocks-1)
		sum := sha256.New()
		if _, err := io.Copy(sum, io.NewSectionReader(f, r[0]*mapBlock, (r[1]-r[0]+1)*mapBlock)); err != nil {
			return err
		}
		text := fmt.Sprint(r[0], "-", r[1])
		if r[0] == r[1] {
			text = fmt.Sprint(r[0])
		}
		fmt.Fprintf(&ranges, "        <Range chksum=\"%x\"> %s </Range>\n", sum.Sum(nil), strings.ReplaceAll(text, " ", ""))
		count += r[1] - r[0] + 1
	}
	zeros := strings.Repeat("0", 2*sha256.Size)
	text := fmt.Sprintf(`<?xml version="1.0" ?>
<bmap version="2.0">
    <ImageSize> %d </ImageSize>
    <BlockSize> %d </BlockSize>
    <BlocksCount> %d </BlocksCount>
    <MappedBlocksCount> %d </MappedBlocksCount>
    <ChecksumType> sha256 </ChecksumType>
    <BmapFileChecksum> %s </BmapFileChecksum>
    <BlockMap>
%s    </BlockMap>
</bmap>
`, st.Size(), mapBlock, blocks, count, zeros, ranges.String())
	sum := sha256.Sum256([]byte(text))
	text = strings.Replace(text, zeros, hex.EncodeToString(sum[:]), 1)
	return os.WriteFile(name, []byte(text), 0o644)
}
