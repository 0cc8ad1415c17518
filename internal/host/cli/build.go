package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
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
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// inputOptions say where the inputs of builds, locks and vendors come from.
type inputOptions struct {
	Spec    string
	SignKey string
	Cache   string
	Vendor  string
	Offline bool
}

func (o *inputOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.SignKey, "sign-key", "", "private key that signs the image, PEM `FILE` "+
		"(default: your development key, created on first use)")
	f.StringVar(&o.Cache, "cache", "", "keep downloads and build results in `DIR` (default: your cache directory)")
	f.StringVar(&o.Vendor, "vendor", "", "directory or registry `REFERENCE` with copies of the inputs, made by pikelet vendor "+
		"(default: the spec's vendor)")
	f.BoolVar(&o.Offline, "offline", false, "use only the cache, the vendor directory and local directories, no network")
}

// inputs reads the spec and collects what a build needs beside it.
func (o *inputOptions) inputs(ctx context.Context, a *app) (*spec.Image, builder.Inputs, error) {
	var in builder.Inputs
	img, err := spec.Load(o.Spec)
	if err != nil {
		return nil, in, err
	}
	if in.Programs, err = deviceprogs.Load(); err != nil {
		return nil, in, err
	}
	if in.Key, err = signingKey(o.SignKey, a); err != nil {
		return nil, in, err
	}
	if o.Cache, err = cacheDir(o.Cache); err != nil {
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
	in.Tool, in.Workers, in.Log = a.version, runtime.GOMAXPROCS(0), a.log
	return img, in, nil
}

// vendor opens the vendor of the flag or of the spec: an existing directory, or
// an artifact in a registry.
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
		err := fmt.Errorf("opening the vendor directory %q: %w", where, fs.ErrNotExist)
		return nil, hint.Withf(err, "create it: pikelet vendor %s %s", o.Spec, where)
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
	Flash  string // device that the image is written to, too
	flash  flashOptions
}

func newBuild(a *app) *cobra.Command {
	o := buildOptions{Keep: cacheSize}
	c := &cobra.Command{
		Use:   "build SPEC",
		Short: "Build an image from its spec",
		Long: `Build an image from its spec.

The output directory then holds disk.img, to be written to a card, and its block
map disk.img.bmap; artifact/, the signed OCI layout; and the text of each stage,
for reading and comparing.

If SPEC.lock exists, the build uses the inputs it pins and reads no index.

Build results are cached by the contents of their inputs: the next build repeats
only what changed, and its image has the same bytes as that of a fresh build.
With --watch, pikelet builds again whenever a local input changes; run
pikelet vm run --watch beside it to boot each result.`,
		Example: `  pikelet build image.yaml
  pikelet build --sign-key release.key --zst -o out image.yaml
  pikelet build --watch image.yaml`,
		GroupID: groupBuild,
		Args:    exactly(1, "the image spec"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Spec = args[0]
			if o.Watch {
				return watch(c.Context(), o, a)
			}
			return runBuild(c.Context(), o, a)
		},
	}
	c.Flags().StringVarP(&o.Out, "output", "o", "out", "write the image to `DIR`")
	c.Flags().BoolVar(&o.NoLock, "no-lock", false, "ignore the lock and choose packages again")
	c.Flags().BoolVar(&o.Zstd, "zst", false, "also write disk.img.zst, for Raspberry Pi Imager and for archives")
	c.Flags().BoolVar(&o.Fresh, "fresh", false, "ignore cached build results")
	c.Flags().BoolVar(&o.Watch, "watch", false, "build again whenever a local input changes")
	c.Flags().Var(&o.Keep, "cache-size", "prune the cache to this size after the build")
	c.Flags().StringVar(&o.Flash, "flash", "", "also write the image to this `DEVICE`, as pikelet flash does")
	o.flash.addFlags(c)
	o.addFlags(c)
	return c
}

func runBuild(ctx context.Context, o buildOptions, a *app) error {
	img, in, err := o.inputs(ctx, a)
	if err != nil {
		return err
	}
	if !o.NoLock {
		if in.Lock, in.LockText, err = lock.LoadText(o.Spec); err != nil {
			return err
		}
		if in.Lock == nil {
			a.log.Info("building without a lock", "hint", "pikelet lock "+o.Spec+" pins the inputs, so that the next build is the same")
		}
	}
	if img.Console == spec.ConsoleRoot {
		a.log.Info("image has a root console", "hint", "whoever reaches the console of a node is root")
	}
	in.Zstd, in.Fresh = o.Zstd, o.Fresh
	p := newProgress(a)
	in.Progress = p.show
	release := in.Made.Hold()
	r, err := builder.Build(ctx, img, in, o.Out)
	release()
	p.end()
	if err != nil {
		return inputHint(err, o.Spec)
	}
	if _, err := in.Made.Prune(int64(o.Keep)); err != nil && !errors.Is(err, cache.ErrBusy) {
		a.log.Warn("pruning the cache failed", "err", err)
	}
	for _, w := range r.Warnings {
		a.log.LogAttrs(ctx, slog.LevelWarn, w.Message, w.Attrs...)
	}
	a.result(map[string]string{"disk": r.Disk, "artifact": r.Artifact.Dir, "digest": r.Digest, "build": r.Plan.BuildID},
		fmt.Sprintf("%s\n%s (OCI manifest %s)", r.Disk, r.Artifact.Dir, r.Digest))
	if o.Flash != "" {
		return runFlash(ctx, r.Artifact.Dir, o.Flash, o.flash, a)
	}
	return nil
}

// userDir returns pikelet's directory below one of the user's own. instead says
// what helps without a home directory, as in a service.
func userDir(base func() (string, error), instead string) (string, error) {
	dir, err := base()
	if err != nil {
		return "", hint.With(fmt.Errorf("looking for your home directory: %w", err), "set HOME, or "+instead)
	}
	return filepath.Join(dir, "pikelet"), nil
}
