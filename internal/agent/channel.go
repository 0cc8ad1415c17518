package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/pikelet-os/pikelet/internal/agent/updater"
	"github.com/pikelet-os/pikelet/internal/artifact/registry"
	"github.com/pikelet-os/pikelet/internal/node"
	"github.com/pikelet-os/pikelet/internal/node/config"
	"github.com/pikelet-os/pikelet/internal/slots"
)

// poller watches a channel: what is new there is fetched and written at once,
// and tried when the window is open.
type poller struct {
	every  time.Duration
	window *config.Window // nil: any time

	// look returns the digest of what the channel names and this node should
	// run; "" for nothing. bring writes it to the other slot, apply restarts into
	// its trial.
	look  func(context.Context) (string, error)
	bring func(context.Context) (digest string, err error)
	apply func(ctx context.Context, digest string) error

	now    func() time.Time
	right  func() bool // the clock is
	sleep  func(context.Context, time.Duration) bool
	random func() float64 // from 0 up to 1
	tell   func(string)
}

// windowStep is how often a closed window is looked at again.
const windowStep = time.Minute

// run watches until the node restarts. The first look is at some moment of the
// first interval: nodes that start together do not ask together.
func (p *poller) run(ctx context.Context) {
	wait := time.Duration(p.random() * float64(p.every))
	said := ""
	for p.sleep(ctx, wait) {
		done, err := p.once(ctx)
		if done {
			return
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			p.tell("looking for new releases: " + said)
		}
		wait = time.Duration((0.9 + 0.2*p.random()) * float64(p.every))
	}
}

// once looks, brings what is new, and applies it when it may. It is done when
// the node restarts.
func (p *poller) once(ctx context.Context) (done bool, err error) {
	for brought := ""; ; {
		digest, err := p.look(ctx)
		if err != nil || digest == "" {
			return false, err
		}
		if digest != brought { // the channel may have moved while the window was closed
			if brought, err = p.bring(ctx); err != nil {
				return false, err
			}
		}
		if p.window == nil || p.right() && p.window.Contains(p.now()) {
			return true, p.apply(ctx, brought)
		}
		for !p.right() || !p.window.Contains(p.now()) {
			if !p.sleep(ctx, windowStep) {
				return false, ctx.Err()
			}
		}
	}
}

// newPoller returns what watches this node's channel; nil where nobody said
// that it should.
func newPoller(b node.Boot, cfg *config.Config, d node.Defaults) (*poller, error) {
	channel := cfg.Upgrades.Channel
	if channel == "" {
		channel = d.Channel
	}
	every := time.Duration(cfg.Upgrades.Poll)
	if every == 0 || b.Slot == slots.Net || b.Kind != slots.Committed {
		return nil, nil
	}
	if channel == "" {
		return nil, errors.New("upgrades.poll is set, and neither the node config nor the image names a channel")
	}
	p := &poller{every: every, now: time.Now, right: synchronised, random: rand.Float64, tell: tell, sleep: sleepFor}
	if cfg.Upgrades.Window != "" {
		w, err := config.ParseWindow(cfg.Upgrades.Window)
		if err != nil {
			return nil, err
		}
		p.window = &w
	}
	o, err := registryOptions(cfg, channel, cfg.Upgrades.PlainHTTP)
	if err != nil {
		return nil, err
	}
	p.look = func(ctx context.Context) (digest string, err error) {
		err = withUpdater(func(_ context.Context, u *updater.Updater, b node.Boot) error {
			digest, err = lookAt(ctx, u, b, channel, o)
			return err
		})
		return digest, err
	}
	p.bring = func(ctx context.Context) (digest string, err error) {
		err = withUpdater(func(_ context.Context, u *updater.Updater, b node.Boot) error {
			img, err := findImage(ctx, channel, o, b)
			if err != nil {
				return err
			}
			tell(fmt.Sprintf("release %s is new in %s; fetching it", img.Release, channel))
			image, err := bring(ctx, u, img, false, false, io.Discard)
			digest = image.Digest
			return err
		})
		return digest, err
	}
	p.apply = func(ctx context.Context, digest string) error {
		return withUpdater(func(_ context.Context, u *updater.Updater, _ node.Boot) error {
			if err := u.MayStart(slots.Image{Digest: digest}, false); err != nil {
				return err
			}
			return arm(ctx, u, slots.Update{Digest: digest}, "", io.Discard)
		})
	}
	return p, nil
}

// lookAt returns the digest of what a channel names, "" where that is nothing
// for this node: it runs already, is older, or was left here before. What was
// left is not tried again until somebody asks for it, or the channel moves on.
func lookAt(ctx context.Context, u *updater.Updater, b node.Boot, channel string, o registry.Options) (string, error) {
	img, err := findImage(ctx, channel, o, b)
	if errors.Is(err, errRuns) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if r := slots.ReadCard(u.Card).Update; r != nil && r.Step == slots.Left && r.Digest == img.Digest {
		return "", nil
	}
	return img.Digest, nil
}

func sleepFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// registryOptions are what the node config says of the registry of a
// reference: who asks, and whom to trust.
func registryOptions(cfg *config.Config, ref string, plain bool) (registry.Options, error) {
	o := registry.Options{PlainHTTP: plain, UserAgent: "pikeletd"}
	host, _, _ := strings.Cut(ref, "/")
	r, ok := cfg.Registries.Configs[host]
	if !ok {
		return o, nil
	}
	if a := r.Auth; a != (config.RegistryAuth{}) {
		o.Keychain = account(authn.AuthConfig{Username: a.Username, Password: a.Password, Auth: a.Auth, RegistryToken: a.Token})
	}
	if r.TLS.CAFile != "" {
		b, err := os.ReadFile(r.TLS.CAFile)
		if err != nil {
			return o, fmt.Errorf("registries.configs.%s.tls.ca_file: %w", host, err)
		}
		o.CA = x509.NewCertPool()
		if !o.CA.AppendCertsFromPEM(b) {
			return o, fmt.Errorf("registries.configs.%s.tls.ca_file: %s holds no certificate", host, r.TLS.CAFile)
		}
	}
	return o, nil
}

// account is who asks one registry.
type account authn.AuthConfig

// Resolve implements authn.Keychain.
func (a account) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig(a)), nil
}
