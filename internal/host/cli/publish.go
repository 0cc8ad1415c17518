package cli

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

func newPublish(say *teller) *cobra.Command {
	var o publishOptions
	c := &cobra.Command{
		Use:   "publish REPOSITORY",
		Short: "Put an image into a registry",
		Long: `Put what a build made into a registry: the image, its bill of materials, and the
signatures of both, under the image's release as a tag. A release that is there
with other contents stays as it is. With --channel a tag that moves names the
image too, which is what nodes follow.

--image takes a build's output folder, an OCI layout, an archive of one, or
another registry's reference: that copies an image with all that belongs to it.
What the registry has is not sent again.

For each of the three releases before it that the registry has, a patch is made
and put beside the image: nodes that run one of those fetch what changed, not
all of it. They want it signed by a key they trust, which is --sign's or your
development key. --from says for how many; what was copied from another registry
brings its own along.

With --imager it writes a compressed disk image and a list of images for
Raspberry Pi Imager into a folder, to be put onto a web server; then no registry
need be named.

Whoever is logged in for docker is logged in here.`,
		Args: func(_ *cobra.Command, args []string) error {
			if o.Imager != "" && len(args) == 0 {
				return nil
			}
			return exactly(1, "a repository: registry.example/name")(nil, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if o.From < 0 || o.From > maxPatches {
				return usageError{fmt.Errorf("--from %d: want 0 to %d releases", o.From, maxPatches)}
			}
			if (o.Imager == "") != (o.ImagerURL == "") {
				return usageError{errors.New("--imager DIR and --imager-url ADDRESS go together")}
			}
			if o.Imager != "" {
				if err := publishForImager(c.Context(), o, say); err != nil || len(args) == 0 {
					return err
				}
			}
			return runPublish(c.Context(), args[0], o, say)
		},
	}
	o.addFlags(c, say)
	f := c.Flags()
	f.StringVar(&o.Image, "image", "out", "what is published")
	f.IntVar(&o.From, "from", 3, "for how many releases before it patches are made")
	f.StringVar(&o.Channel, "channel", "", "tag that moves to this release, such as stable")
	f.StringVar(&o.Sign, "sign", "", "private key that signs what is published too")
	f.StringVar(&o.Imager, "imager", "", "folder that gets the image and a list for Raspberry Pi Imager")
	f.StringVar(&o.ImagerURL, "imager-url", "", "the address that folder will have for Raspberry Pi Imager")
	return c
}

// maxPatches is how many releases may have a patch: what refers to an image is
// listed and copied as one.
const maxPatches = 20

type publishOptions struct {
	imageOptions
	Image     string
	From      int
	Channel   string
	Sign      string
	Imager    string
	ImagerURL string
}

// publishForImager writes an image, and a list that names it, as Raspberry Pi
// Imager takes them.
func publishForImager(ctx context.Context, o publishOptions, say *teller) error {
	img, err := o.open(ctx, o.Image)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.Imager, 0o755); err != nil {
		return err
	}
	file := fmt.Sprintf("%s-%s.img.zst", img.Stream, img.Release)
	work, err := os.MkdirTemp(o.Imager, ".work-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	disk := filepath.Join(work, "disk.img")
	if err := saveDisk(ctx, img, disk, func(int64) {}); err != nil {
		return err
	}
	p := newProgress(say)
	err = builder.CompressDisk(ctx, disk, filepath.Join(work, file), runtime.GOMAXPROCS(0), p.show)
	p.end()
	if err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(work, file), filepath.Join(o.Imager, file)); err != nil {
		return err
	}
	if err := builder.AddToImager(o.Imager, file, disk, o.ImagerURL, img.Manifest); err != nil {
		return err
	}
	list := filepath.Join(o.Imager, builder.ImagerFile)
	say.result(map[string]string{"list": list, "image": filepath.Join(o.Imager, file)}, list+"\n"+filepath.Join(o.Imager, file))
	return nil
}

func runPublish(ctx context.Context, ref string, o publishOptions, say *teller) error {
	to, tag, err := o.target(ref)
	if err != nil {
		return err
	}
	if tag != "" {
		return usageError{fmt.Errorf("%s: leave out the tag: an image's release becomes one, and --channel names one that moves", ref)}
	}
	var key *ecdsa.PrivateKey
	if o.Sign != "" {
		if key, err = readKey(o.Sign); err != nil {
			return err
		}
	}
	img, err := o.open(ctx, o.Image)
	if err != nil {
		return err
	}
	if err := bootable(ctx, img, key); err != nil {
		return err
	}
	there, err := registry.Tagged(ctx, to, img.Release, arch)
	if err != nil {
		return fmt.Errorf("looking whether release %s is there: %w", img.Release, err)
	}
	if there != nil && there.Digest != img.Digest {
		return fmt.Errorf("release %s is in %s already, with other contents (%s): give what you built another release", img.Release, to, there.Digest)
	}
	tell, end := meter(say, "publishing", size(img.Manifest))
	err = registry.Copy(ctx, img, to, []string{img.Release}, key, tell)
	end()
	if err != nil {
		return err
	}
	patches, err := publishPatches(ctx, to, img, o.From, key, say)
	if err != nil {
		return err
	}
	text := to.Reference(img.Release)
	if o.Channel != "" {
		if err := registry.Move(ctx, img, to, o.Channel, nil); err != nil {
			return err
		}
		text += "\n" + to.Reference(o.Channel)
	}
	say.result(map[string]any{"reference": to.Reference(img.Release), "digest": img.Digest, "channel": o.Channel, "patches": patches}, text+" (OCI manifest "+img.Digest+")")
	return nil
}

// bootable refuses an image that no key of its own initramfs signed: /init
// would refuse it.
func bootable(ctx context.Context, img *registry.Published, more *ecdsa.PrivateKey) error {
	keys, err := keysOf(ctx, img)
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
		return fmt.Errorf("no node would start %s: %w; sign it with one of the spec's keys", img, err)
	}
	return nil
}

func newPromote(say *teller) *cobra.Command {
	var o imageOptions
	var down bool
	var sign string
	c := &cobra.Command{
		Use:   "promote REFERENCE CHANNEL",
		Short: "Have a channel name a release that is published",
		Long: `Have a channel, a tag such as stable, name a release that is published. Nodes
that follow the channel upgrade to it.

A lower release than the channel names takes --allow-downgrade and a key: they
add a signed statement, naming the image, the channel, and the release it goes
back from. Without it no node goes back.`,
		Args: exactly(2, "a reference, registry.example/name:1.4, and a channel"),
		RunE: func(c *cobra.Command, args []string) error {
			at, _, err := o.target(args[0])
			if err != nil {
				return err
			}
			var allow *ecdsa.PrivateKey
			if down != (sign != "") {
				return usageError{errors.New("--allow-downgrade and --sign KEY go together: nodes go back only if a key says so")}
			}
			if down {
				if allow, err = readKey(sign); err != nil {
					return err
				}
			}
			img, err := o.open(c.Context(), args[0])
			if err != nil {
				return err
			}
			if err := registry.Move(c.Context(), img, at, args[1], allow); err != nil {
				return err
			}
			say.result(map[string]string{"channel": at.Reference(args[1]), "release": img.Release, "digest": img.Digest},
				fmt.Sprintf("%s is %s %s (OCI manifest %s)", at.Reference(args[1]), img.Stream, img.Release, img.Digest))
			return nil
		},
	}
	o.addFlags(c, say)
	c.Flags().BoolVar(&down, "allow-downgrade", false, "let nodes of the channel go back to this release")
	c.Flags().StringVar(&sign, "sign", "", "private key that signs the statement for --allow-downgrade")
	return c
}
