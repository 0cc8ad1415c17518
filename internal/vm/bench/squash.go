package main

import (
	"archive/tar"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/pikelet-os/pikelet/builder/squashfs"
)

// squash packs a folder as the builder's writer does, for comparing with
// mksquashfs: what the tool reads, it reads.
func squash(dir, image string) error {
	var entries []squashfs.Entry
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		if st.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(p); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(st, link)
		if err != nil {
			return err
		}
		if h.Name, err = filepath.Rel(dir, p); err != nil {
			return err
		}
		entries = append(entries, squashfs.Entry{Header: h, Open: func() (io.ReadCloser, error) { return os.Open(p) }})
		return nil
	})
	if err != nil {
		return err
	}
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = squashfs.Write(f, entries, squashfs.Options{Time: time.Unix(1, 0), Workers: runtime.GOMAXPROCS(0)})
	return err
}
