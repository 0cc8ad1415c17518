// Package datastore keeps a k3s server's datastore over upgrades: a copy just
// before a node restarts into another release, put back when that release is
// left and has written to the datastore with another minor version of k3s,
// which the old one must not read (docs/platform.md 7.8).
package datastore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"golang.org/x/sys/unix"
)

// Names inside k3s' server directory. Copies lie beside the datastore, so that
// they are on the same disk, and a rename is all it takes.
const (
	db        = "db"                // k3s' own: state.db of sqlite, or etcd
	etcd      = "db/etcd"           // where the members of a cluster keep it between them
	copies    = "pikelet"           // ours
	meta      = "meta.json"         // in each copy
	ran       = "pikelet/last.json" // which k3s wrote last
	restoring = "pikelet/restoring" // a copy that is about to become the datastore
	part      = ".part"             // of what is not whole yet
	snapshots = "snapshots"         // k3s' own of etcd: not the datastore
)

// Copy is a copy of a datastore.
type Copy struct {
	Number  int    `json:"number"`
	Slot    string `json:"slot"`    // that ran
	Release string `json:"release"` // that ran
	K3s     string `json:"k3s"`     // its version
	For     string `json:"for"`     // digest of the image that was tried next
}

// Name is what the copy's directory is called.
func (c Copy) Name() string { return fmt.Sprintf("%06d-%s-%s", c.Number, c.Release, c.Slot) }

// Ran is which k3s was started last on a datastore.
type Ran struct {
	Slot    string `json:"slot"`
	Release string `json:"release"`
	Digest  string `json:"digest"`
	K3s     string `json:"k3s"`
}

// List returns the copies there are, the oldest first.
func List(server string) ([]Copy, error) {
	dirs, err := os.ReadDir(filepath.Join(server, copies))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Copy
	for _, d := range dirs {
		b, err := os.ReadFile(filepath.Join(server, copies, d.Name(), meta))
		if err != nil {
			continue // not a copy, or not a whole one
		}
		var c Copy
		if json.Unmarshal(b, &c) == nil && c.Name() == d.Name() {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b Copy) int { return a.Number - b.Number })
	return list, nil
}

// spare is what must be free beside a copy, in bytes: k3s goes on writing.
const spare = 64 << 20

// Save copies the datastore, which nothing writes to meanwhile, and keeps the
// newest few copies, this one among them. A server that has no datastore yet
// has none to save.
func Save(server string, c Copy, keep int) (string, error) {
	from := filepath.Join(server, db)
	size, err := sizeOf(from)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	list, err := List(server)
	if err != nil {
		return "", err
	}
	c.Number = 1
	if len(list) > 0 {
		c.Number = list[len(list)-1].Number + 1
	}
	dir := filepath.Join(server, copies)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := clearParts(dir); err != nil {
		return "", err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", err
	}
	if free := int64(st.Bavail) * st.Bsize; free < size+spare {
		return "", fmt.Errorf("too little space on the volume for a copy of the datastore: got %d MB, want %d MB and %d MB to spare",
			free/1e6, size/1e6, spare/1_000_000)
	}
	to := filepath.Join(dir, c.Name())
	if err := copyTree(filepath.Join(to+part, db), from); err != nil {
		return "", err
	}
	text, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	if err := writeFile(filepath.Join(to+part, meta), text); err != nil {
		return "", err
	}
	if err := rename(to+part, to); err != nil {
		return "", err
	}
	for len(list) > 0 && len(list) >= keep {
		if err := os.RemoveAll(filepath.Join(dir, list[0].Name())); err != nil {
			return "", err
		}
		list = list[1:]
	}
	return to, nil
}

// Start is called before k3s starts: it puts a copy back where the release
// that ran last was left, and notes which k3s runs now. left is the digest of
// the image that was tried and is not kept, "" for none. keep leaves the
// datastore as it is. notice is what the people who run the node should know; ""
// for nothing.
func Start(server string, now Ran, left string, keep bool) (notice string, err error) {
	if err := finish(server); err != nil {
		return "", err
	}
	var last Ran
	if b, err := os.ReadFile(filepath.Join(server, ran)); err == nil {
		_ = json.Unmarshal(b, &last) // without it, nothing is known of the last start
	}
	if left != "" && last.Digest == left && Minor(last.K3s) != Minor(now.K3s) {
		if notice, err = restore(server, last, now, keep); err != nil {
			return notice, err
		}
	}
	if last == now {
		return notice, nil
	}
	text, err := json.Marshal(now)
	if err != nil {
		return notice, err
	}
	if err := os.MkdirAll(filepath.Join(server, copies), 0o700); err != nil {
		return notice, err
	}
	name := filepath.Join(server, ran)
	if err := writeFile(name+part, text); err != nil {
		return notice, err
	}
	return notice, rename(name+part, name)
}

// restore puts the newest copy back that was made before a release was tried.
func restore(server string, last, now Ran, keep bool) (string, error) {
	what := fmt.Sprintf("release %s wrote to the datastore with k3s %s, and is left; this one has %s", last.Release, last.K3s, now.K3s)
	if _, err := os.Stat(filepath.Join(server, etcd)); err == nil {
		return what + ". The datastore is etcd's, which its members keep between them: nothing is put back; see docs/upgrades.md", nil
	}
	list, err := List(server)
	if err != nil {
		return what, err
	}
	i := len(list) - 1
	for i >= 0 && (list[i].For != last.Digest || Minor(list[i].K3s) != Minor(now.K3s)) {
		i--
	}
	if i < 0 {
		return what + ". There is no copy of before, so it goes on with what there is", nil
	}
	copied := filepath.Join(server, copies, list[i].Name())
	if keep {
		return fmt.Sprintf("%s. datastore.onLeft is keep: it goes on with what there is; the copy of before is %s", what, copied), nil
	}
	aside := filepath.Join(server, copies, fmt.Sprintf("left-%s-%06d", last.Release, list[i].Number))
	for n := 2; exists(aside); n++ {
		aside = filepath.Join(server, copies, fmt.Sprintf("left-%s-%06d-%d", last.Release, list[i].Number, n))
	}
	// Whole before it counts; from then on finish does the rest, however often
	// the power goes.
	ready := filepath.Join(server, restoring)
	if err := copyTree(ready+part, filepath.Join(copied, db)); err != nil {
		return what, err
	}
	if err := rename(ready+part, ready); err != nil {
		return what, err
	}
	if err := rename(filepath.Join(server, db), aside); err != nil {
		return what, err
	}
	if err := finish(server); err != nil {
		return what, err
	}
	return fmt.Sprintf("%s. The copy of before is put back (%s); what was written since is kept (%s)", what, copied, aside), nil
}

// finish ends what a power cut cut off.
func finish(server string) error {
	ready := filepath.Join(server, restoring)
	if !exists(ready) {
		return clearParts(filepath.Join(server, copies))
	}
	if exists(filepath.Join(server, db)) { // the datastore was not put aside yet; it is done again
		return os.RemoveAll(ready)
	}
	return rename(ready, filepath.Join(server, db))
}

// version is what k3s says of itself: v1.31.4+k3s1.
var version = regexp.MustCompile(`v?(\d+\.\d+)\.\d+`)

// Minor returns the minor version of a k3s, such as 1.31; "" where it is not
// known.
func Minor(v string) string {
	m := version.FindStringSubmatch(v)
	if m == nil {
		return ""
	}
	return m[1]
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// clearParts takes away what was not finished.
func clearParts(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*"+part))
	for _, n := range names {
		err = errors.Join(err, os.RemoveAll(n))
	}
	return err
}

func sizeOf(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		if err == nil {
			size += st.Size()
		}
		return err
	})
	return size, err
}

// copyTree copies directories and files, and returns when they are on the disk.
func copyTree(to, from string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && rel == snapshots:
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		case d.Type().IsRegular():
			return copyFile(filepath.Join(to, rel), name)
		}
		return nil // sockets
	})
}

func copyFile(to, from string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Sync(), w.Close())
}

func writeFile(name string, b []byte) error {
	w, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return errors.Join(err, w.Sync(), w.Close())
}

// rename renames, and returns when that is on the disk.
func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	for _, dir := range slices.Compact([]string{filepath.Dir(from), filepath.Dir(to)}) {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return nil
}
