package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/builder/cache"
	"github.com/pikelet-os/pikelet/builder/deviceprogs"
	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/builder/lock"
	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// inputOptions say where the inputs of builds, locks and vendors come from.
type inputOptions struct {
	Spec    string
	Key     string
	Cache   string
	Vendor  string
	Offline bool
}

func (o *inputOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.Key, "key", "", "private key that signs, PEM (default: a development key of your own, made on first use)")
	f.StringVar(&o.Cache, "cache", "", "folder that downloads, and what is made of them, are kept in (default: your cache folder)")
	f.StringVar(&o.Vendor, "vendor", "", "folder or artifact with copies of the inputs, made by pikelet vendor (default: the spec's vendor)")
	f.BoolVar(&o.Offline, "offline", false, "ask nothing of the network: cache, vendor and folders only")
}

// inputs reads the spec and gathers what a build needs beside it.
func (o *inputOptions) inputs(ctx context.Context, say *teller) (*spec.Image, builder.Inputs, error) {
	var in builder.Inputs
	img, err := spec.Load(o.Spec)
	if err != nil {
		return nil, in, err
	}
	if in.Programs, err = deviceprogs.Load(); err != nil {
		return nil, in, err
	}
	if in.Key, err = signingKey(o.Key, say); err != nil {
		return nil, in, err
	}
	if o.Cache, err = cacheFolder(o.Cache); err != nil {
		return nil, in, err
	}
	in.Made = &cache.Cache{Dir: o.Cache, Now: time.Now()}
	in.Cache = fetch.New(in.Made)
	in.Cache.Offline = o.Offline
	if !o.Offline {
		if in.Cache.Logins, err = logins(); err != nil {
			return nil, in, err
		}
	}
	if in.Cache.Vendor, err = o.vendor(ctx, img); err != nil {
		return nil, in, err
	}
	in.Tool, in.Workers, in.Report = version, runtime.GOMAXPROCS(0), say.line
	return img, in, nil
}

// vendor opens the flag's or the spec's vendor: a folder that is there, or an
// artifact.
func (o *inputOptions) vendor(ctx context.Context, img *spec.Image) (fetch.Source, error) {
	where := o.Vendor
	if where == "" && img.Vendor != "" {
		where = img.Vendor
		if st, err := os.Stat(img.Path(where)); err == nil && st.IsDir() {
			where = img.Path(where)
		}
	}
	if where == "" {
		return nil, nil
	}
	if st, err := os.Stat(where); err == nil && st.IsDir() {
		return fetch.Dir(where), nil
	}
	if !registry.IsReference(where) {
		return nil, fmt.Errorf("vendor: no folder %s; pikelet vendor %s %s makes it", where, o.Spec, where)
	}
	if o.Offline {
		return nil, nil
	}
	return fetch.OpenRegistry(ctx, where)
}

type buildOptions struct {
	inputOptions
	Out    string
	NoLock bool
	Zstd   bool
	Fresh  bool
	Watch  bool
	Keep   spec.Size
	Flash  string // device that is flashed too
	flash  flashOptions
}

func newBuild(say *teller) *cobra.Command {
	o := buildOptions{Keep: cacheSize}
	c := &cobra.Command{
		Use:   "build SPEC",
		Short: "Build an image from its spec",
		Long: `Build an image from its spec.

The output folder then holds disk.img, to be written to a card, and its block
map disk.img.bmap; artifact/, the signed OCI layout; and the text of each stage,
for reading and comparing.

Where SPEC.lock is there, its inputs are used and no index is read.

What a build makes of its inputs is kept, by what the inputs hold: the next one
makes again only what changed, and its image has the same bytes as a fresh one's.
With --watch it builds again whenever an input on this computer changes; beside
it, pikelet vm run --watch boots what it built.`,
		Args: exactly(1, "the image spec"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Spec = args[0]
			if o.Watch {
				return watch(c.Context(), o, say)
			}
			return runBuild(c.Context(), o, say)
		},
	}
	c.Flags().StringVarP(&o.Out, "output", "o", "out", "folder the image is written to")
	c.Flags().BoolVar(&o.NoLock, "no-lock", false, "choose packages anew although there is a lock")
	c.Flags().BoolVar(&o.Zstd, "zst", false, "write disk.img.zst too, for Raspberry Pi Imager and for keeping")
	c.Flags().BoolVar(&o.Fresh, "fresh", false, "make everything anew, as if no build had been before")
	c.Flags().BoolVar(&o.Watch, "watch", false, "build again whenever an input on this computer changes")
	c.Flags().Var(&o.Keep, "cache-size", "how much the cache may hold when the build is done")
	c.Flags().StringVar(&o.Flash, "flash", "", "write the image onto this device too, as pikelet flash does")
	o.flash.addFlags(c)
	o.addFlags(c)
	return c
}

// exactly is cobra.ExactArgs with an error that says what is missing.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{fmt.Errorf("want %s, got %d arguments", what, len(args))}
		}
		return nil
	}
}

func runBuild(ctx context.Context, o buildOptions, say *teller) error {
	img, in, err := o.inputs(ctx, say)
	if err != nil {
		return err
	}
	if !o.NoLock {
		if in.Lock, err = lock.Load(o.Spec); err != nil {
			return err
		}
		if in.Lock == nil {
			say.line("no lock: pikelet lock " + o.Spec + " pins the inputs, so that the next build is the same")
		}
	}
	if img.Console == spec.ConsoleRoot {
		say.line("console: root is set: whoever reaches the console of this image is root")
	}
	in.Zstd, in.Fresh = o.Zstd, o.Fresh
	p := newProgress(say)
	in.Progress = p.show
	release := in.Made.Hold()
	r, err := builder.Build(ctx, img, in, o.Out)
	release()
	p.end()
	if err != nil {
		return err
	}
	if _, err := in.Made.Prune(int64(o.Keep)); err != nil && !errors.Is(err, cache.ErrBusy) {
		say.warning(err.Error())
	}
	for _, w := range r.Warnings {
		say.warning(w)
	}
	say.result(map[string]string{"disk": r.Disk, "artifact": r.Artifact.Dir, "digest": r.Digest, "build": r.Plan.BuildID},
		fmt.Sprintf("%s\n%s (OCI manifest %s)", r.Disk, r.Artifact.Dir, r.Digest))
	if o.Flash != "" {
		return runFlash(ctx, r.Artifact.Dir, o.Flash, o.flash, say)
	}
	return nil
}

// userFolder returns pikelet's folder in one of the user's own. instead is what
// to do without a home directory, as in a service.
func userFolder(base func() (string, error), instead string) (string, error) {
	dir, err := base()
	if err != nil {
		return "", fmt.Errorf("looking for your home directory: %w; set HOME, or %s", err, instead)
	}
	return filepath.Join(dir, "pikelet"), nil
}
