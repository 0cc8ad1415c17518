package updater

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
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

// startsItself reports why the slot's own /init would not start it.
func (s slot) startsItself(read func(io.Reader) (cmdline.Info, error)) error {
	f, ok := s.File(image.InitramfsFile)
	if !ok {
		return fmt.Errorf("slot %s has no %s, and nothing would start it", s.letter, image.InitramfsFile)
	}
	r, _, err := s.volume.OpenFile(image.InitramfsFile, f.Size)
	if err != nil {
		return err
	}
	info, err := read(r)
	if err != nil {
		return fmt.Errorf("the /init of slot %s would not start it: %w", s.letter, err)
	}
	if _, _, err := info.Verify(s.signature, s.text); err != nil {
		return hint.With(fmt.Errorf("the /init of slot %s would not start it: %w", s.letter, err),
			"sign the image with a key that it trusts itself")
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
