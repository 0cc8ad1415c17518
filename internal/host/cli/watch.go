package cli

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/builder/lock"
	"github.com/pikelet-os/pikelet/builder/spec"
)

// pollEvery is how often files are examined. Polling works on every file system,
// network shares and containers included, where notifications do not.
const pollEvery = 100 * time.Millisecond

// watch builds, and builds again whenever an input changes. A build that fails
// is reported, and the next change tried.
func watch(ctx context.Context, o buildOptions, a *app) error {
	for {
		files := watched(o)
		before := look(files)
		start := time.Now()
		err := runBuild(ctx, o, a)
		if ctx.Err() != nil {
			return nil // interrupted
		}
		if err != nil {
			a.report(err)
		} else {
			a.log.Info("built", "took", time.Since(start).Round(100*time.Millisecond))
		}
		a.log.Info("waiting for a change", "hint", "Ctrl-C ends this")
		if !changed(ctx, files, before) {
			return nil
		}
	}
}

// changed waits until files have changed, and then until they stay the same:
// editors and compilers write in steps. It returns false when ctx ends.
func changed(ctx context.Context, files []string, before [sha256.Size]byte) bool {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for last := before; ; {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		now := look(files)
		if now != before && now == last {
			return true
		}
		last = now
	}
}

// watched lists the local inputs of a build, files and directories. A spec that
// cannot be read is the only input of its build.
func watched(o buildOptions) []string {
	files := []string{o.Spec, lock.Name(o.Spec)}
	if o.SignKey != "" {
		files = append(files, o.SignKey)
	}
	img, err := spec.Load(o.Spec)
	if err != nil {
		return files
	}
	return append(files, builder.LocalInputs(img)...)
}

// look hashes the metadata of files, and of all files in directories, without
// reading them. A missing file is part of the hash as well.
func look(files []string) [sha256.Size]byte {
	h := sha256.New()
	for _, root := range files {
		filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			fmt.Fprintf(h, "%q %v\n", name, err != nil)
			if err != nil {
				return nil
			}
			return lookAt(h, d)
		})
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func lookAt(w io.Writer, d fs.DirEntry) error {
	st, err := d.Info()
	if err != nil { // gone in between
		return nil
	}
	if st.Mode().IsRegular() || st.Mode()&os.ModeSymlink != 0 {
		fmt.Fprintf(w, "%d %s %d\n", st.Size(), st.Mode(), st.ModTime().UnixNano())
	} else {
		fmt.Fprintf(w, "%s\n", st.Mode())
	}
	return nil
}
