package apk

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"path"
	"sort"
	"time"
)

// Installed is a package with what is on the disk of it, for the database
// below /lib/apk/db that apk info and apk audit read (docs/platform.md 5.6).
type Installed struct {
	*Package
	Scripts map[string][]byte // by name, ".post-install" and the like
	Files   []InstalledFile   // directories among them
}

// InstalledFile is one file, link or directory as it is in the image.
type InstalledFile struct {
	*tar.Header
	SHA1 string // of a file's contents or a link's target, hex
}

// DatabaseDir is where apk keeps its database; apk 3 uses the same place.
const DatabaseDir = "lib/apk/db"

// Database returns the files of the database, by name. Scripts have the time
// at.
func Database(list []*Installed, at time.Time) (map[string][]byte, error) {
	var installed, triggers, scripts bytes.Buffer
	tw := tar.NewWriter(&scripts)
	for _, p := range list {
		p = p.known()
		p.encode(&installed)
		if len(p.Triggers) > 0 {
			fmt.Fprintf(&triggers, "%s", p.Identity)
			for _, t := range p.Triggers {
				fmt.Fprintf(&triggers, " %s", t)
			}
			triggers.WriteByte('\n')
		}
		var names []string
		for name := range p.Scripts {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			h := &tar.Header{Typeflag: tar.TypeReg, Name: p.String() + "." + p.Identity + name, Mode: 0o755,
				Size: int64(len(p.Scripts[name])), ModTime: at, Format: tar.FormatPAX}
			if err := tw.WriteHeader(h); err != nil {
				return nil, err
			}
			if _, err := tw.Write(p.Scripts[name]); err != nil {
				return nil, err
			}
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	return map[string][]byte{"installed": installed.Bytes(), "triggers": triggers.Bytes(), "scripts.tar": scripts.Bytes(), "lock": nil}, nil
}

// known returns the package under the identity that the database has for it.
func (p *Installed) known() *Installed {
	own, pkg := *p, *p.Package
	pkg.Identity = shortIdentity(pkg.Identity)
	own.Package = &pkg
	return &own
}

// encode writes one record: the index fields, then directories with their files.
func (p *Installed) encode(w *bytes.Buffer) {
	p.Package.encode(w)
	w.Truncate(w.Len() - 1) // the blank line comes at the end of the files
	if len(p.Replaces) > 0 {
		fmt.Fprintf(w, "r:%s\n", joinDeps(p.Replaces))
	}
	if p.ReplacesPriority != 0 {
		fmt.Fprintf(w, "q:%d\n", p.ReplacesPriority)
	}
	folders := map[string]*tar.Header{}
	files := map[string][]InstalledFile{}
	for _, f := range p.Files {
		if f.Typeflag == tar.TypeDir {
			folders[f.Name] = f.Header
			continue
		}
		dir := path.Dir(f.Name)
		if dir == "." {
			dir = ""
		}
		if _, there := folders[dir]; !there {
			folders[dir] = nil
		}
		files[dir] = append(files[dir], f)
	}
	var names []string
	for name := range folders {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Fprintf(w, "F:%s\n", name)
		if h := folders[name]; h != nil && (h.Uid != 0 || h.Gid != 0 || h.Mode != 0o755) {
			fmt.Fprintf(w, "M:%d:%d:%o\n", h.Uid, h.Gid, h.Mode)
		}
		list := files[name]
		sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
		for _, f := range list {
			f.encode(w)
		}
	}
	w.WriteByte('\n')
}

func (f InstalledFile) encode(w *bytes.Buffer) {
	fmt.Fprintf(w, "R:%s\n", path.Base(f.Name))
	if f.Uid != 0 || f.Gid != 0 || f.Mode != 0o644 {
		fmt.Fprintf(w, "a:%d:%d:%o\n", f.Uid, f.Gid, f.Mode)
	}
	if sum, err := hex.DecodeString(f.SHA1); err == nil && len(sum) == 20 {
		fmt.Fprintf(w, "Z:Q1%s\n", base64.StdEncoding.EncodeToString(sum))
	}
}
