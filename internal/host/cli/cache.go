package cli

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder/cache"
	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// cacheSize is the default limit of the cache, in bytes: the inputs of a dozen
// images, and their build results.
const cacheSize = spec.Size(8 << 30)

func newCache(a *app) *cobra.Command {
	c := group(&cobra.Command{Use: "cache", Short: "Manage the build cache", GroupID: groupBuild})
	c.AddCommand(newPrune(a))
	return c
}

func newPrune(a *app) *cobra.Command {
	dir, keep, all := "", cacheSize, false
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove the least recently used entries",
		Long: `Remove the least recently used entries of the cache until its size is below the
limit, as every build does at its end. Nothing is lost: what is missing is
downloaded and built again.`,
		Example: `  pikelet cache prune --keep 2GiB
  pikelet cache prune --all`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if all {
				keep = 0
			}
			return prune(dir, int64(keep), a)
		},
	}
	c.Flags().StringVar(&dir, "cache", "", "use the cache in `DIR` (default: your cache directory)")
	c.Flags().Var(&keep, "keep", "size that the cache may keep")
	c.Flags().BoolVar(&all, "all", false, "remove everything")
	c.MarkFlagsMutuallyExclusive("keep", "all")
	return c
}

// cacheDir returns the directory of the cache: the one that was named, or pikelet
// in the user's own.
func cacheDir(named string) (string, error) {
	if named != "" {
		return named, nil
	}
	return userDir(os.UserCacheDir, "name a directory with --cache DIR")
}

// openCache returns the cache in a directory, "" for the user's own.
func openCache(dir string) (*cache.Cache, error) {
	dir, err := cacheDir(dir)
	if err != nil {
		return nil, err
	}
	return &cache.Cache{Dir: dir, Now: time.Now()}, nil
}

func prune(dir string, keep int64, a *app) error {
	store, err := openCache(dir)
	if err != nil {
		return err
	}
	p, err := store.Prune(keep)
	if errors.Is(err, cache.ErrBusy) {
		return hint.With(err, "try again when it is done")
	}
	if err != nil {
		return err
	}
	a.result(map[string]int64{"freed": p.Freed, "left": p.Left},
		fmt.Sprintf("%s: %.1f MiB removed, %.1f MiB left", store.Dir, float64(p.Freed)/(1<<20), float64(p.Left)/(1<<20)))
	return nil
}
