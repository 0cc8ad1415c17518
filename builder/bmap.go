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

// extent is a range of a file in blocks, from first to last, and its hash
// where that is known.
type extent struct {
	first, last int64
	sum         string // SHA-256, hex
}

// extents are what of a file matters.
type extents []extent

// add notes that n bytes at a place matter.
func (e *extents) add(at, n int64) {
	if n > 0 {
		*e = append(*e, extent{at / mapBlock, (at + n - 1) / mapBlock, ""})
	}
}

// addKnown notes that n bytes at a place have a known hash, which says nothing
// of parts of blocks.
func (e *extents) addKnown(at, n int64, sum string) {
	if at%mapBlock == 0 && n%mapBlock == 0 && n > 0 {
		*e = append(*e, extent{at / mapBlock, (at+n)/mapBlock - 1, sum})
	}
}

// merged sorts the ranges and joins those that touch, but for the known ones:
// their blocks are only theirs.
func (e extents) merged() extents {
	sort.SliceStable(e, func(i, j int) bool {
		if e[i].first != e[j].first {
			return e[i].first < e[j].first
		}
		return e[i].sum > e[j].sum
	})
	var list extents
	for _, r := range e {
		n := len(list)
		switch {
		case n > 0 && r.last <= list[n-1].last:
		case n > 0 && r.sum == "" && list[n-1].sum == "" && r.first <= list[n-1].last+1:
			list[n-1].last = r.last
		case n > 0 && r.first <= list[n-1].last && r.sum == "":
			list = append(list, extent{list[n-1].last + 1, r.last, ""})
		default:
			list = append(list, r)
		}
	}
	return list
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
		r.last = min(r.last, blocks-1)
		if r.sum == "" {
			sum := sha256.New()
			if _, err := io.Copy(sum, io.NewSectionReader(f, r.first*mapBlock, (r.last-r.first+1)*mapBlock)); err != nil {
				return err
			}
			r.sum = hex.EncodeToString(sum.Sum(nil))
		}
		text := fmt.Sprintf("%d-%d", r.first, r.last)
		if r.first == r.last {
			text = fmt.Sprint(r.first)
		}
		fmt.Fprintf(&ranges, "        <Range chksum=\"%s\"> %s </Range>\n", r.sum, text)
		count += r.last - r.first + 1
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
