//go:build oracle

package script

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/pikelet-os/pikelet/internal/testing/storetest"
	"github.com/pikelet-os/pikelet/layers"
)

// The real busybox judges the evaluator, as root, because it chroots:
// go test -tags oracle -run Oracle ./builder/script -alpine DIR, where DIR holds
// an x86_64 minirootfs of Alpine.
var alpineDir = flag.String("alpine", "", "directory with alpine-minirootfs-*-x86_64.tar.gz")

// differing are the scripts of testdata that do something else here than in
// busybox, each with the reason.
var differing = map[string]string{
	"passwords stay closed": "busybox' passwd -u leaves an empty password where none was set",
}

// unpackRoot unpacks the minirootfs and the files of testdata/root.txtar.
func unpackRoot(t *testing.T, dir string) {
	t.Helper()
	archive, _ := filepath.Glob(*alpineDir + "/alpine-minirootfs-*-x86_64.tar.gz")
	if len(archive) == 0 {
		t.Fatalf("no x86_64 minirootfs in -alpine %q", *alpineDir)
	}
	if out, err := exec.Command("tar", "-xzpf", archive[0], "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	for _, f := range rootFiles(t) {
		name := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch f.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(name, 0o755)
		case tar.TypeSymlink:
			os.Remove(name)
			err = os.Symlink(f.Linkname, name)
		default:
			err = os.WriteFile(name, []byte(f.body), 0o644)
		}
		if err == nil {
			err = os.Lchown(name, f.Uid, f.Gid)
		}
		if err == nil && f.Typeflag != tar.TypeSymlink {
			err = syscall.Chmod(name, uint32(f.Mode))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mknod(filepath.Join(dir, "dev/null"), syscall.S_IFCHR|0o666, 1<<8|3); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Chmod(filepath.Join(dir, "dev/null"), 0o666); err != nil {
		t.Fatal(err)
	}
}

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
		if name == "." || name == options().Name || backups[name] {
			return nil
		}
		if name == "dev" || name == "proc" || name == "sys" {
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
		if top == "dev" || top == "proc" || top == "sys" || backups[e.Name] {
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

// TestOracleBusybox runs the scripts of testdata in a chroot too, and compares the
// trees and the statuses.
func TestOracleBusybox(t *testing.T) {
	base := t.TempDir()
	unpackRoot(t, base)
	archive, err := exec.Command("tar", "--exclude=./dev/null", "-cf", "-", "-C", base, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	kept := storetest.File(t, 4<<30)
	part, err := layers.ReadTar(bytes.NewReader(archive), kept, "minirootfs")
	if err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob("testdata/scripts/*.txtar")
	same, all, refused := 0, 0, 0
	for _, name := range files {
		a, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range a.Files {
			what, is := strings.CutSuffix(f.Name, ".sh")
			if !is {
				continue
			}
			all++
			tree := layers.NewTree(kept)
			for _, e := range part {
				copied := *e
				if err := tree.Place(&copied); err != nil {
					t.Fatal(err)
				}
			}
			o := options("2.0", "1.0")
			o.Epoch = time.Now()
			res, err := Run(context.Background(), tree, NewAccounts(nil, o.Epoch), f.Data, o)
			if err != nil || res.Refusal != nil {
				refused++
				t.Logf("%s: refused: %v, %v", what, res.Refusal, err)
				continue
			}
			status, out, theirs := inChroot(t, base, f.Data)
			ours := ourTree(t, tree)
			why := differs(ours, theirs)
			if status != res.Status {
				why += fmt.Sprintf("status: %d, busybox' is %d\n", res.Status, status)
			}
			switch {
			case why == "":
				same++
				if differing[what] != "" {
					t.Errorf("%s is the same: take it out of differing", what)
				}
			case differing[what] == "":
				t.Errorf("%s: %s:\n%s\n%sours wrote:\n%s\nbusybox wrote:\n%s", filepath.Base(name), what, f.Data, why, res.Output, out)
			}
		}
	}
	t.Logf("%d scripts: %d the same, %d refused, %d differ", all, same, refused, all-same-refused)
}

// inChroot runs a script with the real busybox in a copy of a root.
func inChroot(t *testing.T, base string, script []byte) (int, string, map[string]string) {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if out, err := exec.Command("cp", "-a", base, root).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(root+"/"+options().Name, script, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	// The script gets its name as apk gives it, and no environment but the path.
	cmd := exec.CommandContext(ctx, "unshare", "-m", "-p", "-f", "-n", "--kill-child", "env", "-i", "PATH="+searchPath, "chroot", root,
		"/bin/sh")
	if first, _, _ := bytes.Cut(script, []byte("\n")); bytes.HasPrefix(first, []byte("#!")) && bytes.Contains(first, []byte(" -e")) {
		cmd.Args = append(cmd.Args, "-e")
	}
	cmd.Args = append(cmd.Args, options().Name, "2.0", "1.0")
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out), realTree(t, root)
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
