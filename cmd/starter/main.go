// Command starter makes a small signed package repository out of Debian's
// arm64 packages, for machines that reach a Debian archive but no Alpine
// mirror. It is for trying Pikelet and for its tests: the packages bear
// Alpine's names and have Alpine's shape, but what is in them is Debian's.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
)

func main() {
	dir := flag.String("o", "build/starter", "directory the repository is made in")
	cache := flag.String("cache", "", "directory downloads are kept in (default: the user's cache)")
	bulk := flag.Bool("bulk", false, "make the large packages for measuring instead")
	flag.Parse()
	if *cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			base = filepath.Join(*dir, "..")
		}
		*cache = filepath.Join(base, "pikelet", "debs")
	}
	chosen := recipes
	if *bulk {
		chosen = bulkRecipes
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *dir, *cache, chosen, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "starter:", err)
		os.Exit(1)
	}
}
