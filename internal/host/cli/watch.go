package cli

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/builder/lock"
	"github.com/pikelet-os/pikelet/builder/spec"
)

// pollEvery is how often files are looked at. Looking works on every file
// system, network shares and containers too, where notifications do not.
const pollEvery = 100 * time.Millisecond

// watch builds, and builds again whenever an input changes. A build that fails
// is reported, and the next change tried.
func watch(ctx context.Context, o buildOptions, say *teller) error {
	for {
		files := watched(o)
		before := look(files)
		start := time.Now()
		err := runBuild(ctx, o, say)
		if ctx.Err() != nil {
			return nil // the person ended it
		}
		if err != nil {
			say.warning(err.Error())
		} else {
			say.line(fmt.Sprintf("built in %.1f s", time.Since(start).Seconds()))
		}
		say.line("waiting for a change; Ctrl-C ends this")
		if !changed(ctx, files, before) {
			return nil
		}
	}
}

// changed waits until files look otherwise, and then until they stay as they
// are: editors and compilers write in steps. It is false when ctx ends.
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

// watched lists the inputs of a build that are on this computer, files and
// folders. A spec that can't be read is its only input.
func watched(o buildOptions) []string {
	files := []string{o.Spec, lock.Name(o.Spec)}
	if o.Key != "" {
		files = append(files, o.Key)
	}
	img, err := spec.Load(o.Spec)
	if err != nil {
		return files
	}
	for _, r := range img.Repositories {
		if !fetch.IsRemote(r.URL) {
			files = append(files, filepath.Join(img.Path(r.URL), builder.Arch, "APKINDEX.tar.gz"))
		}
		for _, k := range r.Keys {
			files = append(files, img.Path(k))
		}
	}
	for _, l := range img.Layers {
		for _, name := range []string{l.Folder, l.Tar, strings.TrimPrefix(l.OCI, "oci:")} {
			if name != "" {
				files = append(files, img.Path(name))
			}
		}
	}
	for _, l := range img.Overlays {
		files = append(files, img.Path(l.Name))
	}
	for _, k := range img.Keys {
		files = append(files, img.Path(k))
	}
	return files
}

// look hashes what can be seen of files and of all in folders without reading
// them. What is not there is seen, too.
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
