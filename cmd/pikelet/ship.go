package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/builder/inspect"
	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/internal/artifact/registry"
	"github.com/pikelet-os/pikelet/internal/cosign"
	"github.com/pikelet-os/pikelet/internal/flash"
	"github.com/pikelet-os/pikelet/internal/slots"
)

// arch is what images are for, in OCI's words.
const arch = "arm64"

// placeOptions say how registries are reached.
type placeOptions struct {
	PlainHTTP bool
	CA        string
	Backoff   time.Duration
}

func (o *placeOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&o.PlainHTTP, "plain-http", false, "speak HTTP without TLS to the registry")
	f.StringVar(&o.CA, "ca", "", "file with the certificates, PEM, of the authority that vouches for the registry")
	f.DurationVar(&o.Backoff, "retry-after", time.Second, "how long to wait before the first of several new tries; each next one waits twice as long")
}

func (o *placeOptions) registry() (registry.Options, error) {
	r := registry.Options{PlainHTTP: o.PlainHTTP, Keychain: authn.DefaultKeychain, UserAgent: "pikelet/" + version, Backoff: o.Backoff}
	if o.CA == "" {
		return r, nil
	}
	b, err := os.ReadFile(o.CA)
	if err != nil {
		return r, fmt.Errorf("reading the certificates: %w", err)
	}
	r.CA = x509.NewCertPool()
	if !r.CA.AppendCertsFromPEM(b) {
		return r, fmt.Errorf("%s holds no certificate in PEM", o.CA)
	}
	return r, nil
}

// target finds a place to write to.
func (o *placeOptions) target(ref string) (*registry.Remote, string, error) {
	options, err := o.registry()
	if err != nil {
		return nil, "", err
	}
	p, tag, err := registry.Locate(ref, options)
	if err != nil {
		return nil, "", err
	}
	r, ok := p.(*registry.Remote)
	if !ok {
		return nil, "", usageError{fmt.Errorf("%s is a file or a folder; want a registry's reference: registry.example/name", ref)}
	}
	return r, tag, nil
}

// imageOptions say which image is meant, and whose word counts.
type imageOptions struct {
	placeOptions
	Keys    []string
	Stream  string
	AtLeast string
}

func (o *imageOptions) addFlags(c *cobra.Command) {
	o.placeOptions.addFlags(c)
	f := c.Flags()
	f.StringArrayVar(&o.Keys, "key", nil, "public key that must have signed, PEM; may be given several times (default: those in the folder keys of your configuration, and your development key)")
	f.StringVar(&o.Stream, "stream", "", "the stream the image must be of")
	f.StringVar(&o.AtLeast, "at-least", "", "the lowest release that is taken: a registry can show an old one")
}

// open finds an image and checks its chain. What is on this computer may be
// signed by the image's own keys; what comes from a registry must be signed by
// one the user trusts.
func (o *imageOptions) open(ctx context.Context, ref string) (*registry.Image, error) {
	options, err := o.registry()
	if err != nil {
		return nil, err
	}
	want := registry.Want{Arch: arch, Stream: o.Stream, AtLeast: o.AtLeast}
	if want.Keys, err = cosign.ReadPublicKeys(o.Keys); err != nil {
		return nil, err
	}
	place, tag, err := o.locate(ref, options)
	if err != nil {
		return nil, err
	}
	_, remote := place.(*registry.Remote)
	hint := ""
	switch {
	case len(o.Keys) > 0:
	case remote:
		var folder string
		if want.Keys, folder, err = trustedKeys(); err != nil {
			return nil, err
		}
		hint = fmt.Sprintf("; name the public key that counts with --key, or put it into %s", folder)
		if len(want.Keys) == 0 {
			return nil, errors.New("you trust no key yet" + hint)
		}
	default:
		want.OwnKeys = inspect.Keys
	}
	img, err := registry.Open(ctx, place, tag, want)
	if errors.Is(err, artifact.ErrSignature) && hint != "" {
		err = fmt.Errorf("%w%s", err, hint)
	}
	return img, err
}

// locate is registry.Locate that knows cards and disk images too.
func (o *imageOptions) locate(ref string, options registry.Options) (registry.Place, string, error) {
	st, err := os.Stat(ref)
	switch {
	case err == nil && strings.HasSuffix(ref, ".zst"):
		s, err := openCompressed(ref)
		return s, "", err
	case err == nil && !st.IsDir() && !strings.HasSuffix(ref, ".tar"):
		s, err := flash.OpenSource(ref)
		return s, "", err
	}
	return registry.Locate(ref, options)
}

// meter shows how much of an image was copied.
func meter(say *teller, step string, total int64) (tell registry.Progress, end func()) {
	p := newProgress(say)
	done := make(chan struct{})
	steps := make(chan int64, 64)
	go func() {
		defer close(done)
		var sum int64
		for n := range steps {
			sum += n
			p.show(builder.Progress{Step: step, Done: min(sum, total), Total: total})
		}
	}()
	return func(n int64) { steps <- n }, func() {
		close(steps)
		<-done
		p.end()
	}
}

// size is how many bytes an image has, its files together.
func size(m *artifact.Manifest) int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

func newPublish(say *teller) *cobra.Command {
	var o publishOptions
	c := &cobra.Command{
		Use:   "publish REPOSITORY",
		Short: "Put an image into a registry",
		Long: `Put what a build made into a registry: the image, its bill of materials, and the
signatures of both, under the image's release as a tag. A release that is there
with other contents stays as it is. With --channel a tag that moves names the
image too, which is what nodes follow.

--from takes a build's output folder, an OCI layout, an archive of one, or
another registry's reference: that copies an image with all that belongs to it.
What the registry has is not sent again.

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
	o.addFlags(c)
	f := c.Flags()
	f.StringVar(&o.From, "from", "out", "what is published")
	f.StringVar(&o.Channel, "channel", "", "tag that moves to this release, such as stable")
	f.StringVar(&o.Sign, "sign", "", "private key that signs what is published too")
	f.StringVar(&o.Imager, "imager", "", "folder that gets the image and a list for Raspberry Pi Imager")
	f.StringVar(&o.ImagerURL, "imager-url", "", "the address that folder will have for Raspberry Pi Imager")
	return c
}

type publishOptions struct {
	imageOptions
	From      string
	Channel   string
	Sign      string
	Imager    string
	ImagerURL string
}

// publishForImager writes an image, and a list that names it, as Raspberry Pi
// Imager takes them.
func publishForImager(ctx context.Context, o publishOptions, say *teller) error {
	img, err := o.open(ctx, o.From)
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
	img, err := o.open(ctx, o.From)
	if err != nil {
		return err
	}
	if err := bootable(img, key); err != nil {
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
	text := to.Reference(img.Release)
	if o.Channel != "" {
		if err := registry.Move(ctx, img, to, o.Channel, nil); err != nil {
			return err
		}
		text += "\n" + to.Reference(o.Channel)
	}
	say.result(map[string]string{"reference": to.Reference(img.Release), "digest": img.Digest, "channel": o.Channel}, text+" (OCI manifest "+img.Digest+")")
	return nil
}

// bootable refuses an image that no key of its own initramfs signed: /init
// would refuse it.
func bootable(img *registry.Image, more *ecdsa.PrivateKey) error {
	r, err := img.Open(artifact.InitramfsFile)
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	list := img.Signatures
	if more != nil {
		s, err := artifact.SignDigest(img.Digest, more)
		if err != nil {
			return err
		}
		list = artifact.Join(list, []artifact.Signed{s})
	}
	if err := artifact.VerifyDigest(img.Digest, list, inspect.Keys(b)); err != nil {
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
	o.addFlags(c)
	c.Flags().BoolVar(&down, "allow-downgrade", false, "let nodes of the channel go back to this release")
	c.Flags().StringVar(&sign, "sign", "", "private key that signs the statement for --allow-downgrade")
	return c
}

func newSign(say *teller) *cobra.Command {
	var o placeOptions
	var key string
	c := &cobra.Command{
		Use:   "sign REFERENCE",
		Short: "Sign an image in a registry or a layout",
		Long: `Sign an image where it is, as cosign sign --recursive --key does: its OCI
manifest, the index that leads to it, and its bill of materials. Signatures that
are there stay.`,
		Args: exactly(1, "a registry's reference, or a folder with a layout"),
		RunE: func(c *cobra.Command, args []string) error {
			if key == "" {
				return usageError{errors.New("want --key FILE, the private key that signs; pikelet keygen makes one")}
			}
			k, err := readKey(key)
			if err != nil {
				return err
			}
			options, err := o.registry()
			if err != nil {
				return err
			}
			place, tag, err := registry.Locate(args[0], options)
			if err != nil {
				return err
			}
			at, ok := place.(registry.Target)
			if !ok {
				return usageError{fmt.Errorf("%s cannot be signed where it is", args[0])}
			}
			layout, isLayout := place.(*registry.Layout)
			if isLayout {
				if err := layout.Edit(); err != nil {
					return err
				}
			}
			digests, err := registry.Sign(c.Context(), at, tag, arch, k)
			if err != nil {
				return err
			}
			if isLayout {
				if err := layout.Finish(); err != nil {
					return err
				}
			}
			say.result(map[string]any{"signed": digests}, "signed "+strings.Join(digests, "\nsigned "))
			return nil
		},
	}
	o.addFlags(c)
	c.Flags().StringVar(&key, "key", "", "private key that signs, PEM")
	return c
}

func newVerify(say *teller) *cobra.Command {
	var o imageOptions
	var only bool
	c := &cobra.Command{
		Use:   "verify REFERENCE",
		Short: "Check an image's signatures and every byte of it",
		Long: `Check an image's chain from the keys you trust down to every byte of its files,
which reads all of it. Exit status 1 where it does not hold.`,
		Args: exactly(1, "a registry's reference, a layout, an archive, a card or a disk image"),
		RunE: func(c *cobra.Command, args []string) error {
			img, err := o.open(c.Context(), args[0])
			if err != nil {
				return err
			}
			read := "signatures and manifests hold; no file was read"
			if !only {
				tell, end := meter(say, "reading", size(img.Manifest))
				but := ""
				if _, card := img.From.(*flash.Source); card {
					but = slots.Net.CmdlineFile() // no slot holds the words of netboot
				}
				err := img.ReadFiles(tell, but)
				end()
				if err != nil {
					return err
				}
				read = "signatures, manifests and every file hold"
			}
			say.result(map[string]any{"stream": img.Stream, "release": img.Release, "digest": img.Digest, "files": !only},
				fmt.Sprintf("%s %s (OCI manifest %s): %s", img.Stream, img.Release, img.Digest, read))
			return nil
		},
	}
	o.addFlags(c)
	c.Flags().BoolVar(&only, "signatures-only", false, "read no files")
	return c
}

func newPull(say *teller) *cobra.Command {
	var o imageOptions
	var out, as string
	c := &cobra.Command{
		Use:   "pull REFERENCE",
		Short: "Fetch an image from a registry",
		Long: `Fetch an image from a registry, or from a layout or an archive: as a folder of its
files, as an OCI layout, as an archive of one to carry where there is no
registry, or as a disk image.

Nothing is there under the output's name before all of it is, and was checked. A
download that is interrupted goes on where it was when it is asked for again.`,
		Args: exactly(1, "a reference: registry.example/name:tag"),
		RunE: func(c *cobra.Command, args []string) error { return runPull(c.Context(), args[0], out, as, o, say) },
	}
	o.addFlags(c)
	c.Flags().StringVarP(&out, "output", "o", "", "the folder or file that is written (default: the stream and release)")
	c.Flags().StringVar(&as, "as", "", "files, layout, archive or disk (default: by the output's name: .tar is an archive, .img a disk, else files)")
	return c
}

func runPull(ctx context.Context, ref, out, as string, o imageOptions, say *teller) error {
	switch {
	case as == "" && strings.HasSuffix(out, ".tar"):
		as = "archive"
	case as == "" && strings.HasSuffix(out, ".img"):
		as = "disk"
	case as == "":
		as = "files"
	}
	save := map[string]func(context.Context, *registry.Image, string, registry.Progress) error{
		"files": registry.SaveFiles, "layout": registry.SaveLayout, "archive": registry.SaveArchive, "disk": saveDisk,
	}[as]
	if save == nil {
		return usageError{fmt.Errorf("--as %s: want files, layout, archive or disk", as)}
	}
	img, err := o.open(ctx, ref)
	if err != nil {
		return err
	}
	if out == "" {
		out = img.Stream + "-" + img.Release + map[string]string{"archive": ".tar", "disk": ".img"}[as]
	}
	tell, end := meter(say, "pulling", size(img.Manifest))
	err = save(ctx, img, out, tell)
	end()
	if err != nil {
		return err
	}
	say.result(map[string]string{"output": out, "as": as, "release": img.Release, "digest": img.Digest}, out+" (OCI manifest "+img.Digest+")")
	return nil
}
