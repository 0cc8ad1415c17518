// Package publish puts images into registries with what belongs to them,
// patches for earlier releases included; writes them for Raspberry Pi Imager;
// and tells how a node that runs one image obtains another.
package publish

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/builder/inspect"
	"github.com/pikelet-os/pikelet/internal/host/flash"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// Arch is the architecture of images, as OCI names it.
const Arch = "arm64"

var (
	// ErrReleaseExists is returned for a release that the registry has with
	// other contents.
	ErrReleaseExists = errors.New("release already published with other contents")
	// ErrNotBootable is returned for an image that no key of its own initramfs
	// signed.
	ErrNotBootable = errors.New("no node would boot the image")
)

// Meter starts to show the progress of a step of total bytes. The step reports
// bytes by progress, and calls end when it is done.
type Meter func(step string, total int64) (progress registry.Progress, end func())

// Options say how an image is published.
type Options struct {
	Key      *ecdsa.PrivateKey // also signs the image; nil for none
	PatchKey *ecdsa.PrivateKey // signs patches where Key is nil and the image trusts it; nil for none
	Patches  int               // for how many earlier releases patches are made
	Channel  string            // a tag that is moved to the image; "" for none
	Workers  int               // goroutines that make patches
	Meter    Meter
	Log      *slog.Logger
}

// Result is a published image.
type Result struct {
	Reference string   `json:"reference"`
	Digest    string   `json:"digest"`
	Channel   string   `json:"channel"` // the tag; "" for none
	Patches   []Patch  `json:"patches"`
	Tags      []string `json:"-"` // references to all tags that were written
	// ClassicOnly reports that signatures are there in cosign's classic form alone:
	// the registry refuses bundles.
	ClassicOnly bool `json:"classic_only,omitempty"`
	// NoPatchKey reports that no patches were made for want of a key that the
	// image trusts.
	NoPatchKey bool `json:"-"`
}

// Publish puts an image into a repository under its release as a tag, with
// patches for the releases before it, and moves a channel to it. It returns
// ErrNotBootable and ErrReleaseExists before anything is written, and
// registry.ErrIncomplete, registry.ErrTypeRefused and registry.ErrTagRefused for
// registries that do not give back what they are sent, or do not take it.
func Publish(ctx context.Context, img *registry.Published, to *registry.Remote, o Options) (*Result, error) {
	if err := bootable(ctx, img, o.Key); err != nil {
		return nil, err
	}
	there, err := registry.Tagged(ctx, to, img.Release, Arch)
	if err != nil {
		return nil, fmt.Errorf("looking up release %s in %s: %w", img.Release, to, err)
	}
	if there != nil && there.Digest != img.Digest {
		err := fmt.Errorf("publishing release %s to %s: %w: got %s, want %s", img.Release, to, ErrReleaseExists, there.Digest, img.Digest)
		return nil, hint.With(err, "give what you built another release")
	}
	progress, end := o.Meter("publishing", img.Size())
	err = registry.Copy(ctx, img, to, []string{img.Release}, o.Key, progress)
	end()
	if err != nil {
		return nil, err
	}
	r := &Result{Reference: to.Reference(img.Release), Digest: img.Digest, Channel: o.Channel, Tags: []string{to.Reference(img.Release)}}
	if r.Patches, r.NoPatchKey, err = patches(ctx, to, img, o); err != nil {
		return nil, err
	}
	if why := to.RefusesBundles(); why != nil {
		r.ClassicOnly = true
		o.Log.Warn("the registry refuses cosign 3's bundles: signatures are there in the classic form alone, "+
			"which cosign verifies, and nodes", "err", why)
	}
	if o.Channel != "" {
		if err := registry.Move(ctx, img, to, o.Channel, nil); err != nil {
			return nil, err
		}
		r.Tags = append(r.Tags, to.Reference(o.Channel))
	}
	return r, nil
}

// bootable returns an error for an image that no key of its own initramfs
// signed, counting the signature that more would make.
func bootable(ctx context.Context, img *registry.Published, more *ecdsa.PrivateKey) error {
	keys, err := trustedBy(ctx, img)
	if err != nil {
		return err
	}
	list := img.Signature.Signatures
	if more != nil {
		s, err := image.SignDigest(img.Digest, more)
		if err != nil {
			return err
		}
		list = image.Join(list, []image.Signed{s})
	}
	if err := image.VerifyDigest(img.Digest, list, keys); err != nil {
		return hint.With(fmt.Errorf("publishing %s: %w: %w", img, ErrNotBootable, err), "sign it with one of the keys of its spec")
	}
	return nil
}

// trustedBy returns the public keys in the initramfs of an image.
func trustedBy(ctx context.Context, img *registry.Published) ([]*ecdsa.PublicKey, error) {
	r, err := img.Open(ctx, image.InitramfsFile)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return inspect.Keys(b), err
}

func contains(keys []*ecdsa.PublicKey, key *ecdsa.PrivateKey) bool {
	return slices.ContainsFunc(keys, func(k *ecdsa.PublicKey) bool { return k.Equal(&key.PublicKey) })
}

// Form is the form in which Save writes an image.
type Form string

// The forms.
const (
	Files   Form = "files"   // a directory of the image's files
	Layout  Form = "layout"  // an OCI layout
	Archive Form = "archive" // a tar archive of an OCI layout
	Disk    Form = "disk"    // a disk image
)

// Forms lists all forms.
var Forms = [...]Form{Files, Layout, Archive, Disk}

// FormOf returns the form that the name of an output suggests: an archive for
// .tar, a disk image for .img, files for anything else.
func FormOf(name string) Form {
	switch filepath.Ext(name) {
	case ".tar":
		return Archive
	case ".img":
		return Disk
	}
	return Files
}

// Ext returns the extension of files of a form; "" for directories.
func (f Form) Ext() string {
	switch f {
	case Archive:
		return ".tar"
	case Disk:
		return ".img"
	}
	return ""
}

// Save writes an image to a file or directory, which has its name only once all
// of the image was written and checked. from is the card or disk image that the
// image was read from; nil for other places.
func Save(ctx context.Context, img *registry.Published, from *flash.Source, out string, form Form, progress registry.Progress) error {
	switch form {
	case Files:
		return registry.SaveFiles(ctx, img, out, progress)
	case Layout:
		return registry.SaveLayout(ctx, img, out, progress)
	case Archive:
		return registry.SaveArchive(ctx, img, out, progress)
	case Disk:
		return flash.SaveDisk(ctx, img, from, out, progress)
	}
	return fmt.Errorf("saving %s: unsupported form %q", img, form)
}

// ForImager writes a compressed disk image of img into a directory, and adds the
// image to the directory's list for Raspberry Pi Imager. base is the address that
// the directory will have. It returns the names of both files.
func ForImager(ctx context.Context, img *registry.Published, from *flash.Source, dir, base string, workers int,
	progress func(builder.Progress)) (list, file string, err error) {
	address, err := builder.ParseImagerURL(base)
	if err != nil {
		return "", "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", "", err
	}
	work, err := os.MkdirTemp(dir, ".work-")
	if err != nil {
		return "", "", err
	}
	defer os.RemoveAll(work)
	disk := filepath.Join(work, "disk.img")
	if err := flash.SaveDisk(ctx, img, from, disk, func(int64) {}); err != nil {
		return "", "", err
	}
	name := fmt.Sprintf("%s-%s.img.zst", img.Stream, img.Release)
	if err := builder.CompressDisk(ctx, disk, filepath.Join(work, name), workers, progress); err != nil {
		return "", "", err
	}
	file = filepath.Join(dir, name)
	if err := os.Rename(filepath.Join(work, name), file); err != nil {
		return "", "", err
	}
	if err := builder.AddToImager(dir, name, disk, address, img.Manifest); err != nil {
		return "", "", err
	}
	return filepath.Join(dir, builder.ImagerFile), file, nil
}
