package updater

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/initrd"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Candidate is an image that may become the next one of a node: its chain holds,
// from a key of the running image down to its manifest.
type Candidate struct {
	*image.Manifest
	Digest     string // of the OCI manifest
	Signatures []image.Signed
}

// ErrRuns is returned by Accept for the image that runs already.
var ErrRuns = errors.New("this node runs it")

// Accept reports why an image is not one for the node that runs b: it is the one
// that runs, of another stream, for another machine, or of a lower release
// without a statement that lets nodes of the order's channel go back to it.
func (b Boot) Accept(c Candidate, o Order) error {
	switch {
	case c.Digest == b.Digest && !o.Return:
		return ErrRuns
	case c.Stream != b.Stream:
		return fmt.Errorf("release %s is of stream %q, and this node runs %q", c.Release, c.Stream, b.Stream)
	case c.Arch != b.Arch:
		return fmt.Errorf("release %s is for %s, and this machine is %s", c.Release, c.Arch, b.Arch)
	case b.Board != "" && !slices.Contains(c.Boards, b.Board):
		return fmt.Errorf("release %s is for %s, and this is a %s", c.Release, strings.Join(c.Boards, ", "), b.Board)
	case o.Return || image.CompareReleases(c.Release, b.Release) >= 0:
		return nil
	case image.AllowsDowngrade(c.Digest, c.Signatures, b.Keys, o.Channel, b.Release):
		return nil
	case o.Channel == "":
		return fmt.Errorf("release %s is older than %s, which runs here, and no channel was asked for whose statement could allow it; "+
			"move a channel to it with pikelet promote --allow-downgrade, and upgrade to that channel", c.Release, b.Release)
	}
	return fmt.Errorf("release %s is older than %s, which runs here, and nobody signed that nodes of channel %s may go back to it; "+
		"pikelet promote --allow-downgrade does", c.Release, b.Release, o.Channel)
}

// readOther reads all of a slot, and checks it twice: with the keys of the
// running image, and as the slot's own /init will, with the keys in its
// initramfs. A release whose keys changed may have only one of the two
// signatures, where a registry left the other one out.
func (u *Updater) readOther(ctx context.Context, l slots.Letter) (Candidate, error) {
	s, err := openSlot(u.Card, u.Table, l, u.Boot.Keys)
	if err != nil {
		return Candidate{}, err
	}
	if err := s.readFiles(ctx); err != nil {
		return Candidate{}, err
	}
	read := u.info
	if read == nil {
		read = readInfo
	}
	return s.Candidate, s.startsItself(read)
}

// startsItself checks that the slot's own /init would start it.
func (s slot) startsItself(read func(io.Reader) (cmdline.Info, error)) error {
	f, ok := s.File(image.InitramfsFile)
	if !ok {
		return fmt.Errorf("it has no %s, and nothing would start it", image.InitramfsFile)
	}
	r, _, err := s.volume.OpenFile(image.InitramfsFile, f.Size)
	if err != nil {
		return err
	}
	info, err := read(r)
	if err != nil {
		return fmt.Errorf("its own /init would not start it: %w", err)
	}
	if _, _, err := info.Verify(s.signature, s.text); err != nil {
		return fmt.Errorf("its own /init would not start it: %w; sign the image with a key that it brings, with pikelet sign", err)
	}
	return nil
}

// readInfo reads what an initramfs says of its image.
func readInfo(initramfs io.Reader) (cmdline.Info, error) {
	b, err := initrd.ReadFile(initramfs, strings.TrimPrefix(cmdline.InfoFile, "/"), cmdline.MaxInfo)
	if err != nil {
		return cmdline.Info{}, err
	}
	return cmdline.DecodeInfo(b)
}

// slot is a slot whose chain was checked down to its manifest.
type slot struct {
	Candidate
	letter          slots.Letter
	volume          *fat.Volume
	signature, text []byte
}
