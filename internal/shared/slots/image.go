package slots

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"slices"
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
	NodesFile    = "nodes.yaml" // an inventory that a person put there
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

// Sizes are what the places of files on a card follow from, and what else decides
// about the bytes around them.
type Sizes struct {
	Files     []image.File // of the manifest: names and sizes
	Text      int64        // bytes of manifest.json
	Signature int64        // bytes of signature.json
	SlotSize  int64        // bytes of a slot's partition
	Epoch     int64        // seconds since 1970: the time of all files
	Digest    string       // of the OCI manifest: ids of volumes and the disk come from it
}

// SizesOf returns the sizes of an image.
func SizesOf(i image.Image) (Sizes, error) {
	signature, err := i.Signature.Encode()
	return Sizes{i.Files, int64(len(i.Text)), int64(len(signature)), i.SlotSize, i.Epoch, i.Digest}, err
}

// Slot lays out the slot of a letter on a partition: the files of an image, its
// signature, and the letter's kernel command line under the name the firmware
// reads. The error names what does not fit.
func (s Sizes) Slot(l Letter, p disk.Partition) (*fat.Layout, error) {
	var list []fat.File
	for _, f := range s.Files {
		name, ok := l.OnSlot(f.Name)
		if !ok {
			continue
		}
		entry := fat.File{Name: name, Size: f.Size, Align: 4096}
		switch {
		case name == image.RootFile && p.Size >= 64<<20:
			entry.Align = rootAlign
		case name == image.RootFile, f.Size >= largeFile: // small slots, of tests, have no room to give away
			entry.Align = largeAlign
		}
		list = append(list, entry)
	}
	list = append(list,
		fat.File{Name: image.ManifestFile, Size: s.Text, Align: 4096},
		fat.File{Name: image.SignatureFile, Size: s.Signature, Align: 4096})
	sort.SliceStable(list, func(a, b int) bool { return rank(list[a]) < rank(list[b]) })
	layout, err := fat.Plan(list, fat.Options{
		Size: p.Size, Hidden: p.Start, VolumeID: s.id(string(l)), Label: "SLOT-" + strings.ToUpper(string(l)), Time: time.Unix(s.Epoch, 0),
	})
	if err != nil {
		return nil, fmt.Errorf("laying out slot %s: %w", l, err)
	}
	return layout, nil
}

// Contents returns what opens the files of an image under the names they have in
// the slot of a letter. open opens a file by its name in the manifest.
func Contents(i image.Image, l Letter, open fat.Contents) fat.Contents {
	names := map[string]string{}
	for _, f := range i.Files {
		if on, ok := l.OnSlot(f.Name); ok {
			names[on] = f.Name
		}
	}
	return func(name string) (io.ReadCloser, error) {
		switch name {
		case image.ManifestFile:
			return blob(i.Text), nil
		case image.SignatureFile:
			signature, err := i.Signature.Encode()
			return blob(signature), err
		}
		return open(names[name])
	}
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

func blob(b []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) }

// Files are what the control partition of a card holds beside what every one
// does.
type Files struct {
	Default  Letter // the slot that boots
	Bootcode []byte // bootcode.bin; nil where no board needs it
	Node     []byte // the text of node.yaml, at most NodeSize bytes
	Report   []byte // the text of report.txt, at most ReportSize bytes
}

// Control lays out the control partition, and returns what opens its files.
// autoboot.txt lies at least 64 KiB from everything else, so that no erase block
// of a common card holds both.
func (s Sizes) Control(c Files, p disk.Partition) (*fat.Layout, fat.Contents, error) {
	for name, f := range map[string]struct{ got, room int }{NodeFile: {len(c.Node), NodeSize}, ReportFile: {len(c.Report), ReportSize}} {
		if f.got > f.room {
			return nil, nil, fmt.Errorf("laying out the control partition: %s has %d bytes and room for %d", name, f.got, f.room)
		}
	}
	files := map[string][]byte{
		AutobootFile: EncodeAutoboot(c.Default),
		NodeFile:     filled(c.Node, NodeSize),
		ReportFile:   filled(c.Report, ReportSize),
	}
	order := []string{AutobootFile, NodeFile, ReportFile}
	if c.Bootcode != nil {
		files[BootcodeFile] = c.Bootcode
		order = slices.Insert(order, 1, BootcodeFile)
	}
	var list []fat.File
	for _, name := range order {
		f := fat.File{Name: name, Size: int64(len(files[name])), Align: 64 << 10}
		switch name {
		case AutobootFile:
			f.Apart = 64 << 10
		case BootcodeFile:
			f.Align = 4096
		}
		list = append(list, f)
	}
	layout, err := fat.Plan(list, fat.Options{
		Size: p.Size, Hidden: p.Start, VolumeID: s.id("control"), Label: "CONTROL", Time: time.Unix(s.Epoch, 0),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("laying out the control partition: %w", err)
	}
	return layout, func(name string) (io.ReadCloser, error) { return blob(files[name]), nil }, nil
}

// filled returns a text with newlines behind it up to a size in bytes.
func filled(text []byte, size int) []byte {
	return append(text[:len(text):len(text)], bytes.Repeat([]byte{'\n'}, size-len(text))...)
}

// id returns the id of a part of a card: the same image gives the same ids.
func (s Sizes) id(part string) uint32 {
	sum := sha256.Sum256([]byte(part + " " + s.Digest))
	return binary.BigEndian.Uint32(sum[:])
}

// DiskSignature returns the MBR signature of the image's cards.
func (s Sizes) DiskSignature() uint32 { return s.id("disk") }
