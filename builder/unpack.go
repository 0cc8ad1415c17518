package builder

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/apk"
	"github.com/pikelet-os/pikelet/layers/store"
)

// fetchers is how many inputs are fetched at once. Mirrors answer one request
// no faster for a second beside it, and few of them mind four.
const fetchers = 4

// unpack fetches, checks, unpacks, hashes and compresses all packages and
// layers, and what overlays fetch: several at once, each as soon as it is
// there. The parts come in the order of the plan. Their blocks may still be compressed.
func unpack(ctx context.Context, p *Plan, in Inputs, c *contents) (packages []*part, found [][]layers.Part, fetched [][]layers.Part,
	err error) {
	total := int64(0)
	for _, pkg := range p.Packages {
		total += pkg.Size
	}
	m := in.step("unpacking packages", total)
	packages, found = make([]*part, len(p.Packages)), make([][]layers.Part, len(p.Layers))
	fetched = make([][]layers.Part, len(p.Overlays))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(fetchers, in.Workers))
	turn := make(chan struct{}, max(1, in.Workers)) // more at once than there are cores only cost memory
	for i, pkg := range p.Packages {
		group.Go(func() error {
			var err error
			if packages[i], err = pkg.load(ctx, in, c, turn); err != nil {
				return err
			}
			m.add(pkg.Size)
			return nil
		})
	}
	for i, l := range p.Layers {
		group.Go(func() error {
			turn <- struct{}{}
			defer func() { <-turn }()
			var err error
			found[i], err = l.load(p.Image, c)
			return err
		})
	}
	for i, o := range p.Overlays {
		fetched[i] = make([]layers.Part, len(o.Fetch))
		for n, f := range o.Fetch {
			group.Go(func() error {
				var err error
				if fetched[i][n], err = p.fetch(ctx, in, o, f, c); err != nil {
					return fmt.Errorf("overlay %s: %w", o.Name, err)
				}
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		return nil, nil, nil, err
	}
	m.end()
	return packages, found, fetched, nil
}

// load fetches and unpacks a package: it waits for its turn when it is there.
func (pkg Package) load(ctx context.Context, in Inputs, c *contents, turn chan struct{}) (*part, error) {
	key := c.key("apk", pkg.Identity, pkg.Size, pkg.keys.Fingerprint())
	p, err := c.part(key, func(file *store.File) (*part, error) {
		name, err := in.Cache.File(ctx, pkg.url, pkg.vendored(), pkg.Identity, pkg.Size)
		if err != nil {
			return nil, fmt.Errorf("package %s: %w", pkg.Package, err)
		}
		turn <- struct{}{}
		defer func() { <-turn }()
		return pkg.read(ctx, name, file)
	})
	if err != nil {
		return nil, err
	}
	p.Package.Repository = pkg.Repository
	p.Files.SetSource(pkg.String())
	return p, nil
}

// read checks a package's file and unpacks it.
func (pkg Package) read(ctx context.Context, name string, to *store.File) (*part, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	a, err := apk.OpenArchive(f, st.Size(), pkg.Package, pkg.keys)
	if err != nil {
		return nil, err
	}
	p := &part{Package: a.Info, Scripts: a.Scripts}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, st.Size())); err != nil {
		return nil, err
	}
	p.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return p, a.Unpack(func(h *tar.Header, r io.Reader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return p.Files.Add(to, *h, pkg.String(), r)
	})
}

// sumsOf returns the SHA-256 of the files that packages came in, by their names, in
// hexadecimal digits. What an identity pins is less: the signature is no part of it.
func sumsOf(packages []*part) map[string]string {
	sums := map[string]string{}
	for _, p := range packages {
		sums[p.Package.Name] = p.SHA256
	}
	return sums
}
