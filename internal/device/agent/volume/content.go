package volume

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// blankEnds is how much of each end of a disk must be zeros for a blank disk,
// bytes: partition tables and the superblocks of filesystems lie there.
const blankEnds = 16 * disk.MiB

// extHead is how much of an ext4's beginning holds its superblock, bytes.
const extHead = 2048

// content is what lies on a disk.
type content struct {
	Blank bool
	Ext4  bool
	LUKS  bool
	Label string // of an ext4 or LUKS2
	UUID  string // of an ext4 or LUKS, as blkid prints it
	What  string // for people
}

// identify returns what lies on a disk of size bytes. Only zeros are blank.
func identify(r io.ReaderAt, size int64) (content, error) {
	head := make([]byte, min(size, 1<<20))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return content{}, err
	}
	if c, known := knownContent(head); known {
		return c, nil
	}
	for _, at := range []int64{0, max(0, size-blankEnds)} {
		zero, err := disk.IsZero(io.NewSectionReader(r, at, min(blankEnds, size)))
		if err != nil {
			return content{}, err
		}
		if !zero {
			where := "beginning"
			if at > 0 {
				where = "end"
			}
			return content{What: fmt.Sprintf("data of an unknown kind at its %s", where)}, nil
		}
	}
	return content{Blank: true, What: "nothing"}, nil
}

// knownContent knows filesystems and the like by their marks, from the
// descriptions of their on-disk formats.
func knownContent(head []byte) (content, bool) {
	at := func(offset int, mark string) bool {
		return len(head) >= offset+len(mark) && string(head[offset:offset+len(mark)]) == mark
	}
	if len(head) >= extHead && binary.LittleEndian.Uint16(head[0x438:]) == 0xef53 {
		c := content{Ext4: true, Label: string(bytes.TrimRight(head[0x478:0x488], "\x00"))}
		u := head[0x468:0x478]
		c.UUID = fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
		c.What = "an ext filesystem without a label"
		if c.Label != "" {
			c.What = fmt.Sprintf("an ext filesystem labelled %q", c.Label)
		}
		return c, true
	}
	if at(0, luksMark) && len(head) >= luksHead {
		return luksContent(head), true
	}
	for _, k := range []struct {
		offset     int
		mark, what string
	}{
		{0, "XFSB", "an XFS filesystem"},
		{0x10040, "_BHRfS_M", "a btrfs filesystem"},
		{0x400, "\x10\x20\xf5\xf2", "an F2FS filesystem"},
		{512, "LABELONE", "a volume of LVM"},
		{4096 - 10, "SWAPSPACE2", "swap space"},
		{512, "EFI PART", "a GPT partition table"},
		{3, "NTFS    ", "an NTFS filesystem"},
		{82, "FAT32   ", "a FAT filesystem"},
		{54, "FAT16   ", "a FAT filesystem"},
		{0, "hsqs", "a squashfs filesystem"},
		{510, "\x55\xaa", "a partition table"},
	} {
		if at(k.offset, k.mark) {
			return content{What: k.what}, true
		}
	}
	return content{}, false
}

// The beginning of a LUKS header: version 2 has a label, both have a UUID
// (https://gitlab.com/cryptsetup/LUKS2-docs, "Binary header").
const (
	luksMark = "LUKS\xba\xbe"
	luksHead = 512
)

func luksContent(head []byte) content {
	text := func(from, to int) string {
		b, _, _ := bytes.Cut(head[from:to], []byte{0})
		return string(b)
	}
	c := content{LUKS: true, UUID: text(168, 208), What: "an encrypted disk (LUKS)"}
	if binary.BigEndian.Uint16(head[6:]) == 2 {
		c.Label = text(24, 72)
	}
	if c.Label != "" {
		c.What += fmt.Sprintf(" labelled %q", c.Label)
	}
	return c
}

// has reports whether a volume with a label lies there, encrypted or not.
func (c content) has(label string) bool { return (c.Ext4 || c.LUKS) && c.Label == label }

// halfMade reports whether a power cut left on the disk what may be made again:
// noted says that the node was formatting this disk. What has the volume's label
// was made to the end, whatever the config says of encryption since.
func (c content) halfMade(noted bool, label string, formatBlank bool) bool {
	return noted && formatBlank && !c.has(label)
}

// mayUse decides about the disk that a volume with a label is to be on: whether
// it is formatted first, or why it may not be used. Only a disk that holds nothing
// is ever formatted, and only where the config says so. A volume that is
// encrypted is none that is not, nor the other way round.
func (c content) mayUse(device, label string, formatBlank, encrypted bool) (format bool, err error) {
	switch {
	case encrypted && c.Ext4 && c.Label == label:
		return false, hint.With(fmt.Errorf("%s holds this node's volume, which is not encrypted, and the config says encryption; "+
			"it is left as it is", device), "leave encryption out to use it; what is on a disk is not encrypted afterwards, "+
			"so save the data, run pikeletd reset --volume, and restore them")
	case !encrypted && c.LUKS && c.Label == label:
		return false, hint.With(fmt.Errorf("%s holds this node's volume, encrypted, and the config says no encryption; it is left as it is",
			device), "set volume.encryption as it was")
	case c.Blank && formatBlank:
		return true, nil
	case c.Blank:
		return false, hint.Withf(fmt.Errorf("%s is blank", device), "format it, with the label %s, or set format: blank and the node does", label)
	case c.has(label):
		return false, nil
	case (c.Ext4 || c.LUKS) && strings.TrimSpace(c.Label) != "":
		return false, fmt.Errorf("%s holds %s, and this node's volume would be labelled %s; it is left as it is", device, c.What, label)
	}
	return false, hint.With(fmt.Errorf("%s holds %s, and this node's volume would be an ext4 labelled %s; it is left as it is",
		device, c.What, label), "a disk is formatted only if it is all zeros")
}

// mayWipe refuses to wipe a disk that is not the volume of this node, whose
// label is label: names of disks swap.
func (c content) mayWipe(device, label string) error {
	if c.Blank || c.has(label) || c.has(makingLabel) {
		return nil
	}
	return hint.With(fmt.Errorf("%s holds %s, and this node's volume is an ext4 labelled %s; it is left as it is", device, c.What, label),
		"wipe it with wipefs, if it is to go")
}
