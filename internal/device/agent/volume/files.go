package volume

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/etc"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// WaitingFile holds the config's files that wait for the volume: below what
// it is bound over they would be hidden by it.
const WaitingFile = "/run/pikelet/volume-files.json"

// writtenFiles, on the volume, names the files that configs put there: one
// that the config no longer has is removed.
const writtenFiles = "pikelet-files.json"

// SplitFiles parts files from those that are written when the volume is
// mounted.
func SplitFiles(files []etc.File) (now, later []etc.File) {
	for _, f := range files {
		if slices.ContainsFunc(node.WritablePaths(), func(w node.Writable) bool {
			return w.Place == node.Volume && strings.HasPrefix(f.Path, w.Path+"/")
		}) {
			later = append(later, f)
		} else {
			now = append(now, f)
		}
	}
	return now, later
}

// placeWaiting writes the files that wait for the volume, which is mounted at
// dir.
func placeWaiting(waiting, dir string) error {
	b, err := os.ReadFile(waiting)
	if err != nil {
		return err
	}
	var files []etc.File
	if err := json.Unmarshal(b, &files); err != nil {
		return fmt.Errorf("%s: %w", waiting, err)
	}
	if err := placeOnVolume(dir, files); err != nil {
		return fmt.Errorf("writing the config's files on the volume: %w", err)
	}
	return nil
}

// placeOnVolume makes the volume at dir hold files, and none that an earlier
// config had there. Pods write to the volume too: no link of theirs is
// followed out of it.
func placeOnVolume(dir string, files []etc.File) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var before, now []string
	if b, err := root.ReadFile(writtenFiles); err == nil {
		if err := json.Unmarshal(b, &before); err != nil {
			return fmt.Errorf("%s: %w", writtenFiles, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range files {
		now = append(now, strings.TrimPrefix(f.Path, "/"))
	}
	slices.Sort(now)
	all := append(slices.Clone(now), before...)
	slices.Sort(all)
	all = slices.Compact(all)
	// Before a file is there its name is in the list, until it is gone.
	if err := noteWritten(root, before, all); err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		errs = append(errs, placeFile(root, f))
	}
	for _, name := range before {
		if !slices.Contains(now, name) {
			if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
				now = append(now, name) // another time
			}
		}
	}
	slices.Sort(now)
	return errors.Join(append(errs, noteWritten(root, all, now))...)
}

func noteWritten(root *os.Root, was, names []string) error {
	if slices.Equal(was, names) {
		return nil
	}
	b, err := json.Marshal(names)
	if err != nil {
		return err
	}
	return placeFile(root, etc.File{Path: writtenFiles, Content: string(b), Mode: 0o600})
}

// placeFile writes one file below root, whole or not at all. One that is as it
// should be is left alone: cards wear out.
func placeFile(root *os.Root, f etc.File) error {
	name, mode := strings.TrimPrefix(f.Path, "/"), f.Mode.Perm()
	if mode == 0 {
		mode = 0o644
	}
	if st, err := root.Lstat(name); err == nil && st.Mode() == mode {
		b, err := root.ReadFile(name)
		if err == nil && bytes.Equal(b, []byte(f.Content)) {
			return root.Lchown(name, f.UID, f.UID)
		}
	}
	dirMode := os.FileMode(0o755)
	if strings.HasPrefix(f.Path, node.K3sServerDir+"/") {
		dirMode = 0o700 // as k3s makes it
	}
	if err := root.MkdirAll(path.Dir(name), dirMode); err != nil {
		return err
	}
	draft := path.Join(path.Dir(name), "."+path.Base(name)+".new")
	if err := root.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	w, err := root.OpenFile(draft, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = w.WriteString(f.Content)
	err = errors.Join(err, w.Chown(f.UID, f.UID), w.Chmod(mode), w.Sync(), w.Close())
	if err == nil {
		err = root.Rename(draft, name)
	}
	return err
}
