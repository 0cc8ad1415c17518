package script

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pikelet-os/pikelet/layers"
)

// backups are files that busybox keeps of what it changes, which an image has no use for.
var backups = map[string]bool{"etc/passwd-": true, "etc/group-": true, "etc/shadow-": true}

// described is a tree as lines by name, with names of accounts in place of the
// numbers that differ.
func described(files map[string]string, ids *strings.Replacer) map[string]string {
	for name, text := range files {
		files[name] = ids.Replace(text)
	}
	return files
}

// numbersOf returns what replaces the numbers of accounts that a script made.
func numbersOf(passwd, group string) *strings.Replacer {
	var pairs []string
	for what, text := range map[string]string{"u": passwd, "g": group} {
		for line := range strings.Lines(text) {
			if f := strings.Split(line, ":"); len(f) > 2 {
				pairs = append(pairs, "<"+what+f[2]+">", "<"+what+":"+f[0]+">")
			}
		}
	}
	return strings.NewReplacer(pairs...)
}

// accountsText marks the numbers in a file of accounts.
func accountsText(name, text string) string {
	if name != passwdFile && name != groupFile {
		return text
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		f := strings.Split(line, ":")
		if len(f) > 3 && name == passwdFile {
			f[2], f[3] = "<u"+f[2]+">", "<g"+f[3]+">"
		} else if len(f) > 2 {
			f[2] = "<g" + f[2] + ">"
		}
		b.WriteString(strings.Join(f, ":"))
	}
	return b.String()
}

func line(kind rune, mode int64, uid, gid int, what string) string {
	return fmt.Sprintf("%c%04o <u%d>:<g%d> %s", kind, mode, uid, gid, what)
}

func textOf(name string, b []byte) string {
	if len(b) > 4000 {
		return fmt.Sprintf("%x", sha256.Sum256(b))
	}
	return fmt.Sprintf("%q", accountsText(name, string(b)))
}

func realTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		if name == "." || name == options().Name || name == judgeMark || backups[name] {
			return nil
		}
		if name == "dev" || name == "proc" || name == "sys" || name == judgeDir {
			return filepath.SkipDir
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return err
		}
		mode, uid, gid := int64(st.Mode&0o7777), int(st.Uid), int(st.Gid)
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFDIR:
			files[name] = line('d', mode, uid, gid, "")
		case syscall.S_IFLNK:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			files[name] = line('l', mode, uid, gid, to)
		default:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			files[name] = line('f', mode, uid, gid, textOf(name, b))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		b, _ := os.ReadFile(filepath.Join(dir, name))
		return string(b)
	}
	return described(files, numbersOf(read(passwdFile), read(groupFile)))
}

func ourTree(t *testing.T, tree *layers.Tree) map[string]string {
	t.Helper()
	texts := contents(t, tree)
	files := map[string]string{}
	for _, e := range tree.Entries() {
		top, _, _ := strings.Cut(e.Name, "/")
		if top == "dev" || top == "proc" || top == "sys" || top == judgeDir || backups[e.Name] {
			continue
		}
		switch e.Typeflag {
		case tar.TypeDir:
			files[e.Name] = line('d', e.Mode, e.Uid, e.Gid, "")
		case tar.TypeSymlink:
			files[e.Name] = line('l', 0o777, e.Uid, e.Gid, e.Linkname)
		default:
			files[e.Name] = line('f', e.Mode, e.Uid, e.Gid, textOf(e.Name, []byte(texts[e.Name])))
		}
	}
	return described(files, numbersOf(texts[passwdFile], texts[groupFile]))
}

func differs(ours, theirs map[string]string) string {
	var b strings.Builder
	names := map[string]bool{}
	for name := range ours {
		names[name] = true
	}
	for name := range theirs {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if ours[name] != theirs[name] {
			fmt.Fprintf(&b, "/%s: ours\n\t%s\nbusybox'\n\t%s\n", name, ours[name], theirs[name])
		}
	}
	return b.String()
}
