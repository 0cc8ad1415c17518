package slots

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// Names of files on the card that are in no artifact.
const (
	CmdlineFile  = "cmdline.txt"
	AutobootFile = "autoboot.txt"
	NodeFile     = "node.yaml"
	ReportFile   = "report.txt" // see report.go
	BootcodeFile = "bootcode.bin"
)

// Sizes of the files on the control partition, in bytes. They are made at
// full length by whoever writes the card, and overwritten in place by nodes.
const (
	NodeSize   = 64 << 10
	ReportSize = 16 << 10
)

// alignments inside a slot: large files begin on borders of their own, the
// root on 4 MiB, so that a file which grew a little moves none behind it and
// unchanged blocks stay where they were from release to release.
const (
	largeFile  = 256 << 10
	largeAlign = 256 << 10
	rootAlign  = 4 << 20
)

// Image is an artifact as it is laid out on cards.
type Image struct {
	Manifest  *image.Manifest
	Text      []byte // the manifest's bytes
	Signature []byte // signature.json
	Digest    string // of the OCI manifest: volume ids come from it
	Open      func(name string) (io.ReadCloser, error)
}

// Slot lays out the slot of a letter on a partition: the files of the
// artifact, its signature, and the letter's kernel words under the name the
// firmware reads.
func (i Image) Slot(l Letter, p disk.Partition) (*fat.Layout, error) {
	var list []fat.File
	for _, f := range i.Manifest.Files {
		name, ok := l.OnSlot(f.Name)
		if !ok {
			continue
		}
		entry := fat.File{Name: name, Size: f.Size, Open: func() (io.ReadCloser, error) { return i.Open(f.Name) }}
		switch {
		case name == image.RootFile:
			entry.Align = rootAlign
			if p.Size < 64<<20 {
				entry.Align = largeAlign // small slots are for tests; they have no room to give away
			}
		case f.Size >= largeFile:
			entry.Align = largeAlign
		default:
			entry.Align = 4096
		}
		list = append(list, entry)
	}
	list = append(list, blob(image.ManifestFile, i.Text), blob(image.SignatureFile, i.Signature))
	sort.SliceStable(list, func(a, b int) bool { return rank(list[a]) < rank(list[b]) })
	layout, err := fat.Plan(list, fat.Options{
		Size: p.Size, Hidden: p.Start, VolumeID: i.id(string(l)), Label: "SLOT-" + strings.ToUpper(string(l)),
		Time: time.Unix(i.Manifest.Epoch, 0),
	})
	if err != nil {
		return nil, fmt.Errorf("laying out slot %s: %w", l, err)
	}
	return layout, nil
}

// rank puts small files first and the root last.
func rank(f fat.File) string {
	switch {
	case f.Name == image.RootFile:
		return "3" + f.Name
	case f.Align == largeAlign:
		return "2" + f.Name
	}
	return "1" + path.Base(f.Name) + f.Name
}

func blob(name string, b []byte) fat.File {
	return fat.File{Name: name, Size: int64(len(b)), Align: 4096,
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

// Files are what the control partition of a card holds beside what every one
// does.
type Files struct {
	Default  Letter // the slot that boots
	Bootcode []byte // bootcode.bin; nil where no board needs it
	Node     []byte // the text of node.yaml, at most NodeSize bytes
	Report   []byte // the text of report.txt, at most ReportSize bytes
}

// Control lays out the control partition. autoboot.txt lies at least 64 KiB
// from everything else, so that no erase block of a common card holds both.
func (i Image) Control(c Files, p disk.Partition) (*fat.Layout, error) {
	if len(c.Node) > NodeSize || len(c.Report) > ReportSize {
		return nil, fmt.Errorf("laying out the control partition: %s has %d bytes and room for %d", NodeFile, len(c.Node), NodeSize)
	}
	report := append(c.Report[:len(c.Report):len(c.Report)], bytes.Repeat([]byte{'\n'}, ReportSize-len(c.Report))...)
	node := append(c.Node[:len(c.Node):len(c.Node)], bytes.Repeat([]byte{'\n'}, NodeSize-len(c.Node))...)
	autoboot := blob(AutobootFile, EncodeAutoboot(c.Default))
	autoboot.Align, autoboot.Apart = 64<<10, 64<<10
	list := []fat.File{autoboot}
	if c.Bootcode != nil {
		list = append(list, blob(BootcodeFile, c.Bootcode))
	}
	for _, f := range []fat.File{blob(NodeFile, node), blob(ReportFile, report)} {
		f.Align = 64 << 10
		list = append(list, f)
	}
	layout, err := fat.Plan(list, fat.Options{
		Size: p.Size, Hidden: p.Start, VolumeID: i.id("control"), Label: "CONTROL", Time: time.Unix(i.Manifest.Epoch, 0),
	})
	if err != nil {
		return nil, fmt.Errorf("laying out the control partition: %w", err)
	}
	return layout, nil
}

// id makes ids for what of a card: the same build gives the same card.
func (i Image) id(what string) uint32 {
	sum := sha256.Sum256([]byte(what + " " + i.Digest))
	return binary.BigEndian.Uint32(sum[:])
}

// DiskSignature returns the MBR signature of this image's cards.
func (i Image) DiskSignature() uint32 { return i.id("disk") }
