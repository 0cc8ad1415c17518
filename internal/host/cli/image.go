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

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/builder/inspect"
	"github.com/pikelet-os/pikelet/internal/host/cosign"
	"github.com/pikelet-os/pikelet/internal/host/flash"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// arch is what images are for, in OCI's words.
const arch = "arm64"

// placeOptions say how registries are reached.
type placeOptions struct {
	PlainHTTP bool
	CA        string
	Backoff   time.Duration
	version   string // of the command, which registries are told
}

func (o *placeOptions) addFlags(c *cobra.Command, say *teller) {
	o.version = say.version
	f := c.Flags()
	f.BoolVar(&o.PlainHTTP, "plain-http", false, "speak HTTP without TLS to the registry")
	f.StringVar(&o.CA, "ca", "", "file with the certificates, PEM, of the authority that vouches for the registry")
	f.DurationVar(&o.Backoff, "retry-after", time.Second, "how long to wait before the first of several new tries; each next one waits twice as long")
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

func (o *imageOptions) addFlags(c *cobra.Command, say *teller) {
	o.placeOptions.addFlags(c, say)
	f := c.Flags()
	f.StringArrayVar(&o.Keys, "key", nil, "public key that must have signed, PEM; may be given several times (default: those in the folder keys of your configuration, and your development key)")
	f.StringVar(&o.Stream, "stream", "", "the stream the image must be of")
	f.StringVar(&o.AtLeast, "at-least", "", "the lowest release that is taken: a registry can show an old one")
}

// open finds an image and checks its chain. What is on this computer may be
// signed by the image's own keys; what comes from a registry must be signed by
// one the user trusts.
func (o *imageOptions) open(ctx context.Context, ref string) (*registry.Published, error) {
	options, err := o.registry()
	if err != nil {
		return nil, err
	}
	want := registry.Want{Arch: arch, Stream: o.Stream, AtLeast: o.AtLeast}
	if want.Keys, err = cosign.ReadPublicKeys(o.Keys); err != nil {
		return nil, err
	}
	place, tag, err := o.locate(ctx, ref, options)
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
	if errors.Is(err, image.ErrSignature) && hint != "" {
		err = fmt.Errorf("%w%s", err, hint)
	}
	return img, err
}

// locate is registry.Locate that knows cards and disk images too.
func (o *imageOptions) locate(ctx context.Context, ref string, options registry.Options) (registry.Place, string, error) {
	st, err := os.Stat(ref)
	if err != nil || st.IsDir() {
		return registry.Locate(ref, options)
	}
	packed, err := isZstd(ref)
	switch {
	case err != nil:
		return nil, "", err
	case packed:
		s, err := openCompressed(ctx, ref)
		return s, "", err
	case !strings.HasSuffix(ref, ".tar"):
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
func size(m *image.Manifest) int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}
