package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder/inspect"
	"github.com/pikelet-os/pikelet/internal/host/cosign"
	"github.com/pikelet-os/pikelet/internal/host/flash"
	"github.com/pikelet-os/pikelet/internal/host/publish"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// placeOptions say how registries are reached.
type placeOptions struct {
	PlainHTTP bool
	CA        string
	Backoff   time.Duration
	version   string // of the command, which registries are told
}

func (o *placeOptions) addFlags(c *cobra.Command, a *app) {
	o.version = a.version
	f := c.Flags()
	f.BoolVar(&o.PlainHTTP, "plain-http", false, "use HTTP without TLS for the registry")
	f.StringVar(&o.CA, "ca", "", "certificate authority of the registry, PEM `FILE`")
	f.DurationVar(&o.Backoff, "retry-after", time.Second, "delay before the first retry; it doubles with each retry")
}

func (o *placeOptions) registry() (registry.Options, error) {
	r := registry.Options{PlainHTTP: o.PlainHTTP, Keychain: authn.DefaultKeychain, UserAgent: "pikelet/" + o.version, Backoff: o.Backoff}
	if o.CA == "" {
		return r, nil
	}
	b, err := os.ReadFile(o.CA)
	if err != nil {
		return r, fmt.Errorf("reading the certificates: %w", err)
	}
	r.CA = x509.NewCertPool()
	if !r.CA.AppendCertsFromPEM(b) {
		return r, fmt.Errorf("reading the certificates: %s holds no PEM certificate", o.CA)
	}
	return r, nil
}

// target returns the repository that a reference names, and its tag.
func (o *placeOptions) target(ref string) (*registry.Remote, string, error) {
	options, err := o.registry()
	if err != nil {
		return nil, "", err
	}
	if _, err := os.Stat(ref); err == nil || !registry.IsReference(ref) {
		return nil, "", usagef("%s is not a registry's reference, such as registry.example/name", ref)
	}
	return registry.Repository(ref, options)
}

// imageOptions say which image is expected, and whose signatures count.
type imageOptions struct {
	placeOptions
	Keys    []string
	Stream  string
	AtLeast string
}

func (o *imageOptions) addFlags(c *cobra.Command, a *app) {
	o.placeOptions.addFlags(c, a)
	f := c.Flags()
	f.StringArrayVar(&o.Keys, "key", nil, "public key that must have signed the image, PEM `FILE`; repeatable "+
		"(default: those in the directory keys of your configuration, and your development key)")
	f.StringVar(&o.Stream, "stream", "", "`NAME` of the stream that the image must belong to")
	f.StringVar(&o.AtLeast, "at-least", "", "lowest `RELEASE` to accept: a registry can offer an old one")
}

// opened is an image and, where it was read from a card or a disk image, that.
type opened struct {
	*registry.Published
	card *flash.Source
}

// open opens an image and checks its chain. A local image may be signed by a key
// of its own initramfs; one in a registry must be signed by a key that the user
// trusts.
func (o *imageOptions) open(ctx context.Context, ref string) (*opened, error) {
	options, err := o.registry()
	if err != nil {
		return nil, err
	}
	want := registry.Want{Arch: publish.Arch, Stream: o.Stream, AtLeast: o.AtLeast}
	if want.Keys, err = cosign.ReadPublicKeys(o.Keys); err != nil {
		return nil, err
	}
	place, tag, card, err := o.locate(ctx, ref, options)
	if err != nil {
		return nil, err
	}
	remote := place.Remote()
	trust := ""
	switch {
	case len(o.Keys) > 0:
	case remote:
		var dir string
		if want.Keys, dir, err = trustedKeys(); err != nil {
			return nil, err
		}
		trust = fmt.Sprintf("name the public key that counts with --key, or put it into %s", dir)
		if len(want.Keys) == 0 {
			return nil, hint.With(errors.New("you trust no key yet"), trust)
		}
	default:
		want.OwnKeys = inspect.Keys
	}
	img, err := registry.Open(ctx, place, tag, want)
	if errors.Is(err, image.ErrSignature) && trust != "" {
		err = hint.With(err, trust)
	}
	if err != nil {
		return nil, err
	}
	return &opened{img, card}, nil
}

// published is open for those who need not know of cards.
func (o *imageOptions) published(ctx context.Context, ref string) (*registry.Published, error) {
	img, err := o.open(ctx, ref)
	if err != nil {
		return nil, err
	}
	return img.Published, nil
}

// locate is registry.Locate that also opens cards and disk images.
func (o *imageOptions) locate(ctx context.Context, ref string, options registry.Options) (registry.Place, string, *flash.Source, error) {
	st, err := os.Stat(ref)
	if err != nil || st.IsDir() {
		p, tag, err := registry.Locate(ref, options)
		return p, tag, nil, err
	}
	packed, err := flash.IsZstd(ref)
	switch {
	case err != nil:
		return nil, "", nil, err
	case packed:
		s, err := flash.OpenCompressed(ctx, ref)
		return s, "", s, err
	case !strings.HasSuffix(ref, ".tar"):
		s, err := flash.OpenSource(ref)
		return s, "", s, err
	}
	p, tag, err := registry.Locate(ref, options)
	return p, tag, nil, err
}
