package datastore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Restored returns where a server directory lies that was restored from a backup and
// is about to take the place of server.
func Restored(server string) string { return server + ".restored" }

// Exists reports whether a server directory holds a server: a new one has its CA
// before anything else that matters, and a datastore.
func Exists(server string) bool {
	for _, name := range []string{"tls/server-ca.crt", "db/state.db", "db/etcd"} {
		if exists(filepath.Join(server, name)) {
			return true
		}
	}
	return false
}

// Prepare makes a directory that is whole the one that Adopt takes at the next boot.
func Prepare(ready, part string) error {
	if err := syncDirs(part); err != nil {
		return err
	}
	if err := os.RemoveAll(ready); err != nil {
		return err
	}
	return rename(part, ready)
}

// Adopt is called before k3s starts, and before Start: it has a restored server
// directory take the place of server, and puts what was there aside, under the name
// that it returns; "" where there is nothing to adopt or to put aside. A power cut
// anywhere in it repeats it.
func Adopt(server string) (aside string, err error) {
	ready := Restored(server)
	if _, err := os.Lstat(ready); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return "", err
	}
	if exists(server) {
		for n := 1; aside == "" || exists(aside); n++ {
			aside = fmt.Sprintf("%s.replaced-%d", server, n)
		}
		if err := rename(server, aside); err != nil {
			return "", err
		}
	}
	return aside, rename(ready, server)
}

// syncDirs returns when all names below a directory are on the disk.
func syncDirs(dir string) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
		return nil
	})
}
