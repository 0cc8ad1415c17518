package cli

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/host/publish"
	"github.com/pikelet-os/pikelet/internal/host/rolloutfile"
	"github.com/pikelet-os/pikelet/internal/shared/atomicfile"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

type publishOptions struct {
	imageOptions
	Image     string
	From      int
	Channel   string
	SignKey   string
	Imager    string
	ImagerURL string
	Rollout   string
}

func newPublish(a *app) *cobra.Command {
	var o publishOptions
	c := &cobra.Command{
		Use:   "publish REPOSITORY",
		Short: "Publish an image to a registry",
		Long: `Publish what a build made to a registry: the image, its bill of materials, and the
signatures of both, under the image's release as a tag. A release that exists with
other contents is left as it is. With --channel a moving tag, which nodes follow,
names the image too.

--image takes a build's output directory, an OCI layout, an archive of one, or
another registry's reference, which copies an image with all that belongs to it.
What the registry has is not sent again.

For each of the three releases before it that the registry has, a patch is made
and put beside the image: nodes that run one of those download what changed, not
all of it. Nodes accept a patch only if it is signed by a key they trust, that of
--sign-key or your development key. --from sets the number of releases; an image
that is copied from another registry brings its patches along.

With --rollout, once all of that is there, each Rollout in a YAML file whose image
is of the repository names this release by its tag and its digest: the file is for
git, and the rest of it stays as it is. Without such a Rollout, nothing is published.

With --imager, write a compressed disk image and a list of images for Raspberry Pi
Imager to a directory, for a web server; no registry need be named then.

Logins of docker login are used.`,
		Example: `  pikelet publish registry.example/pi/homelab --sign-key release.key
  pikelet publish registry.example/pi/homelab --image out --channel testing
  pikelet publish registry.example/pi/homelab --rollout cluster/rollout.yaml
  pikelet publish --imager www --imager-url https://example.org/pi`,
		GroupID: groupShip,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case o.Imager != "" && len(args) == 0 && o.Rollout != "":
				return usagef("--rollout %s: want a repository too, whose image the Rollout is to name", o.Rollout)
			case o.Imager != "" && len(args) == 0:
				return nil
			}
			return exactly(1, "a repository: registry.example/name")(nil, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if o.From < 0 || o.From > publish.MaxPatches {
				return usagef("--from %d: want 0 to %d releases", o.From, publish.MaxPatches)
			}
			if o.Imager != "" {
				if err := publishForImager(c.Context(), o, a); err != nil || len(args) == 0 {
					return err
				}
			}
			return runPublish(c.Context(), args[0], o, a)
		},
	}
	o.addFlags(c, a)
	f := c.Flags()
	f.StringVar(&o.Image, "image", "out", "`IMAGE` to publish")
	f.IntVar(&o.From, "from", 3, "`NUMBER` of earlier releases to make patches for")
	f.StringVar(&o.Channel, "channel", "", "`TAG` to move to this release, such as stable")
	f.StringVar(&o.SignKey, "sign-key", "", "private key that also signs the image, PEM `FILE`")
	f.StringVar(&o.Rollout, "rollout", "", "YAML `FILE` whose Rollouts are to name this release")
	f.StringVar(&o.Imager, "imager", "", "write the image and a list for Raspberry Pi Imager to `DIR`")
	f.StringVar(&o.ImagerURL, "imager-url", "", "`URL` that the directory will have for Raspberry Pi Imager")
	c.MarkFlagsRequiredTogether("imager", "imager-url")
	return c
}

// publishForImager writes an image, and a list that names it, as Raspberry Pi
// Imager expects them.
func publishForImager(ctx context.Context, o publishOptions, a *app) error {
	img, err := o.open(ctx, o.Image)
	if err != nil {
		return err
	}
	p := newProgress(a)
	list, file, err := publish.ForImager(ctx, img.Published, img.card, o.Imager, o.ImagerURL, runtime.GOMAXPROCS(0), p.show)
	p.end()
	if err != nil {
		return err
	}
	a.result(map[string]string{"list": list, "image": file}, list+"\n"+file)
	return nil
}

func runPublish(ctx context.Context, ref string, o publishOptions, a *app) error {
	to, tag, err := o.target(ref)
	if err != nil {
		return err
	}
	if tag != "" {
		return usagef("%s: leave out the tag: the image's release becomes the tag, and --channel names a moving one", ref)
	}
	if o.Rollout != "" { // what cannot be written later is known before anything is published
		if _, _, err := withImage(o.Rollout, ref, ref); err != nil {
			return err
		}
	}
	options := publish.Options{Patches: o.From, Channel: o.Channel, Workers: runtime.GOMAXPROCS(0), Meter: a.meter, Log: a.log}
	if o.SignKey != "" {
		if options.Key, err = a.readKey(o.SignKey); err != nil {
			return err
		}
	} else {
		options.PatchKey = a.developmentSigner()
	}
	img, err := o.open(ctx, o.Image)
	if err != nil {
		return err
	}
	r, err := publish.Publish(ctx, img.Published, to, options)
	if err != nil {
		return err
	}
	if r.NoPatchKey {
		a.log.Warn("no patches were made, the signing key is not in the image spec",
			"hint", "nodes accept only patches signed by a key of the spec: name one with --sign-key KEY, or make none with --from 0")
	}
	all := published{Result: r}
	text := strings.Join(r.Tags, "\n") + " (OCI manifest " + img.Digest + ")"
	if o.Rollout != "" {
		pinned := ref + ":" + img.Release + "@" + img.Digest
		changed, err := setImage(o.Rollout, ref, pinned)
		if err != nil {
			return hint.Withf(err, "the image is published: write image: %s into the file", pinned)
		}
		if changed {
			all.Rollout = o.Rollout
			text += "\n" + o.Rollout + ": image: " + pinned
		} else {
			a.log.Info("the Rollout names the release already", "file", o.Rollout)
		}
	}
	a.result(all, text)
	return nil
}

// published is what publish prints as JSON.
type published struct {
	*publish.Result
	Rollout string `json:"rollout,omitempty"` // the file that was changed
}

// withImage returns a file of Rollouts as it is, and with another reference as the
// image of those of a repository.
func withImage(file, repository, reference string) (was, now []byte, err error) {
	was, err = os.ReadFile(file)
	if err != nil {
		return nil, nil, hint.Withf(fmt.Errorf("reading the Rollout: %w", err),
			"write one, with image: %s in its spec, or leave out --rollout", repository)
	}
	now, err = rolloutfile.SetImage(was, repository, reference)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the Rollout in %s: %w", file, err)
	}
	return was, now, nil
}

// setImage has the Rollouts of a repository in a file name a reference, and reports
// whether the file is another one now.
func setImage(file, repository, reference string) (changed bool, err error) {
	was, now, err := withImage(file, repository, reference)
	if err != nil || bytes.Equal(was, now) {
		return false, err
	}
	target, err := filepath.EvalSymlinks(file) // a link stays one
	if err != nil {
		return false, err
	}
	st, err := os.Stat(target)
	if err != nil {
		return false, err
	}
	return true, atomicfile.Write(target, now, st.Mode().Perm())
}

func newPromote(a *app) *cobra.Command {
	var o imageOptions
	var down bool
	var signKey string
	c := &cobra.Command{
		Use:   "promote REFERENCE CHANNEL",
		Short: "Move a channel to a published release",
		Long: `Move a channel, a tag such as stable, to a published release. Nodes that follow
the channel upgrade to it.

A release lower than the current one requires --allow-downgrade and a key: they
add a signed statement that names the image, the channel, and the release it
replaces. Without the statement no node downgrades.`,
		Example: `  pikelet promote registry.example/pi/homelab:1.4 stable
  pikelet promote registry.example/pi/homelab:1.3 stable --allow-downgrade --sign-key release.key`,
		GroupID: groupShip,
		Args:    exactly(2, "a reference, registry.example/name:1.4, and a channel"),
		RunE: func(c *cobra.Command, args []string) error {
			if !down {
				signKey = ""
			}
			return runPromote(c.Context(), args[0], args[1], signKey, o, a)
		},
	}
	o.addFlags(c, a)
	c.Flags().BoolVar(&down, "allow-downgrade", false, "let nodes of the channel downgrade to this release")
	c.Flags().StringVar(&signKey, "sign-key", "", "private key that signs the statement of --allow-downgrade, PEM `FILE`")
	c.MarkFlagsRequiredTogether("allow-downgrade", "sign-key")
	return c
}

// runPromote moves a channel; signKey allows a downgrade, "" for none.
func runPromote(ctx context.Context, ref, channel, signKey string, o imageOptions, a *app) error {
	at, _, err := o.target(ref)
	if err != nil {
		return err
	}
	var allow *ecdsa.PrivateKey
	if signKey != "" {
		if allow, err = a.readKey(signKey); err != nil {
			return err
		}
	}
	img, err := o.open(ctx, ref)
	if err != nil {
		return err
	}
	if err := registry.Move(ctx, img.Published, at, channel, allow); err != nil {
		return err
	}
	a.result(map[string]string{"channel": at.Reference(channel), "release": img.Release, "digest": img.Digest},
		fmt.Sprintf("%s is %s %s (OCI manifest %s)", at.Reference(channel), img.Stream, img.Release, img.Digest))
	return nil
}
