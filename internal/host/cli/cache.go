package cli

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder/cache"
	"github.com/pikelet-os/pikelet/builder/spec"
)

// cacheSize is what the cache may hold when nobody says: the inputs of a dozen
// images, and what was made of them.
const cacheSize = spec.Size(8 << 30)

func newCache(say *teller) *cobra.Command {
	c := &cobra.Command{Use: "cache", Short: "Look after what builds keep"}
	c.AddCommand(newPrune(say))
	return c
}

func newPrune(say *teller) *cobra.Command {
	dir, keep, all := "", cacheSize, false
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove what was not used for longest",
		Long: `Remove what was not used for longest from the cache, until it holds no more than
it may. Builds do the same when they are done. Nothing is lost: what is missing
is downloaded and made again.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if all {
				keep = 0
			}
			return prune(dir, int64(keep), say)
		},
	}
	c.Flags().StringVar(&dir, "cache", "", "folder of the cache (default: your cache folder)")
	c.Flags().Var(&keep, "keep", "how much may be left")
	c.Flags().BoolVar(&all, "all", false, "leave nothing")
	return c
}

// cacheFolder returns the folder of the cache: the one that was named, or pikelet
// in the user's own.
func cacheFolder(named string) (string, error) {
	if named != "" {
		return named, nil
	}
	return userFolder(os.UserCacheDir, "say --cache DIR")
}

func prune(dir string, keep int64, say *teller) error {
	dir, err := cacheFolder(dir)
	if err != nil {
		return err
	}
	p, err := (&cache.Cache{Dir: dir, Now: time.Now()}).Prune(keep)
	if errors.Is(err, cache.ErrBusy) {
		return fmt.Errorf("%w; try again when it is done", err)
	}
	if err != nil {
		return err
	}
	say.result(p, fmt.Sprintf("%s: %.1f MiB removed, %.1f MiB left", dir, float64(p.Freed)/(1<<20), float64(p.Left)/(1<<20)))
	return nil
}
