package openrc

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/depends"
	"github.com/pikelet-os/pikelet/layers"
)

// emulator runs programs of arm64, statically linked.
const emulator = "qemu-aarch64-static"

// realDir is where a root of a test has its programs: their own places have this
// test's program, which runs them with the emulator.
const realDir = "/.real"

// TestMain is the program that a root of a test has in place of each of arm64.
func TestMain(m *testing.M) {
	if _, err := os.Stat(realDir); err == nil {
		name := filepath.Base(os.Args[0])
		args := append([]string{emulator, "-0", os.Args[0], realDir + "/" + name}, os.Args[1:]...)
		fmt.Fprintln(os.Stderr, syscall.Exec("/"+emulator, args, os.Environ()))
		os.Exit(126)
	}
	os.Exit(m.Run())
}

// machine lays a tree out as a root whose programs can be run in a chroot.
func machine(t *testing.T, tree *layers.Tree) string {
	t.Helper()
	found, err := exec.LookPath(emulator)
	if err != nil || os.Geteuid() != 0 {
		t.Skip("it needs root and " + emulator + ", from qemu-user-static")
	}
	root := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	place := func(name string, mode fs.FileMode, b []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), b, mode); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) []byte {
		t.Helper()
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	place(emulator, 0o755, read(found))
	place(".self", 0o755, read(self))
	for _, e := range tree.Entries() {
		info := e.FileInfo()
		switch {
		case info.IsDir():
			err = os.MkdirAll(filepath.Join(root, e.Name), 0o755)
		case info.Mode().Type() == fs.ModeSymlink:
			err = os.Symlink(e.Linkname, filepath.Join(root, e.Name))
		case info.Mode().IsRegular():
			r, oerr := e.Open()
			if oerr != nil {
				t.Fatal(oerr)
			}
			b, rerr := io.ReadAll(r)
			r.Close()
			if rerr != nil {
				t.Fatal(rerr)
			}
			if strings.HasPrefix(string(b), "\x7fELF") && !strings.Contains(path.Base(e.Name), ".so") {
				place(realDir+"/"+path.Base(e.Name), 0o755, b)
				err = os.Link(root+"/.self", filepath.Join(root, e.Name))
				break
			}
			place(e.Name, info.Mode().Perm(), b)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// The applets that gendepends.sh calls.
	for _, name := range []string{"sh", "cat"} {
		os.Remove(filepath.Join(root, "bin", name))
		place("bin/.keep", 0o644, nil)
		if err := os.Link(root+"/.self", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("busybox", root+realDir+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// inRoot runs a program of a root, as OpenRC's sysinit would run it.
func inRoot(t *testing.T, root string, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin", "RC_LIBEXECDIR=/usr/lib/rc", "RC_SCRIPTDIRS=/etc", "RC_UNAME=Linux",
		"RC_SVCDIR=/run/openrc", "RC_RUNLEVEL=sysinit", "EINFO_QUIET=yes"}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Path = args[0]
	// gendepends.sh ends with the status of the last service's last word.
	if err := cmd.Run(); err != nil && (errs.Len() > 0 || out.Len() == 0) {
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

// TestSameAsOpenRC compares what is computed with what gendepends.sh of the
// starter repository's OpenRC prints, and the dependency tree that OpenRC makes of
// the two.
func TestSameAsOpenRC(t *testing.T) {
	tree := starterTree(t)
	put(t, tree, "etc/conf.d/syslog", 0o644, "rc_need='hostname'\nrc_before=\"dropbear\"\n")
	put(t, tree, "etc/conf.d/killprocs", 0o644, "killall5_opts=\"-o 12\"\n")
	put(t, tree, "etc/conf.d/net", 0o644, "rc_want=sysctl\n")
	put(t, tree, "etc/init.d/net.eth0", 0o755, "#!/sbin/openrc-run\ndepend() {\n\tneed localmount\n\tprovide net\n\tkeyword -jail\n}\n")
	put(t, tree, "etc/init.d/plain", 0o755, "#!/bin/sh\necho no service\n")
	const header = "### BEGIN INIT INFO\n# Provides: old older\n# Required-Start: $network $syslog\n# Should-Start: hostname\n" +
		"# X-Start-Before: chronyd\n# Default-Start: 2 3\n### END INIT INFO\n"
	put(t, tree, "etc/init.d/lsb", 0o755, "#!/bin/sh\n"+header)
	put(t, tree, "etc/rc.conf.d/x.conf", 0o644, "rc_hostname_after=modules\n")
	r, err := Compute(context.Background(), tree)
	if err != nil {
		t.Fatal(err)
	}
	root := machine(t, tree)
	for _, dir := range []string{"run/openrc", "run/pikelet"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	printed := inRoot(t, root, "/bin/sh", "/usr/lib/rc/sh/gendepends.sh")
	// The one with the header of the Linux Standard Base is left to OpenRC.
	var others strings.Builder
	for line := range strings.Lines(printed) {
		if line != "lsb\n" && !strings.HasPrefix(line, "lsb ") {
			others.WriteString(line)
		}
	}
	if others.Len() > len(printed)-len("lsb\nlsb ineed x\n") || len(r.Left) != 1 || r.Left[0].Service != "lsb" {
		t.Errorf("left: %v; gendepends.sh prints\n%s", r.Left, printed)
	}
	if ours := texts(r); ours != others.String() {
		t.Errorf("computed\n%s\nand gendepends.sh prints\n%s", ours, printed)
	}
	want := deptree(t, root)

	if err := r.Install(tree, "test", time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	ours, err := tree.ReadFile(r.script, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, r.script), ours, 0o755); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(root, depends.ScriptFile)
	for name, change := range map[string]func(){
		"all":        func() {},
		"some stale": func() { edit(t, root, "etc/conf.d/hostname", "rc_after=\"modules\"\nx=$(echo y)\n") },
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(script, []byte(r.record.On(os.DirFS(root)).Script()), 0o644); err != nil {
				t.Fatal(err)
			}
			change()
			if name == "some stale" {
				good := r.record.On(os.DirFS(root))
				if good.All || len(good.Stale) != 1 {
					t.Errorf("stale: %v", good.Stale)
				}
				if err := os.WriteFile(script, []byte(good.Script()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := deptree(t, root); got != want {
				t.Errorf("the dependency tree is\n%s\nwant\n%s", got, want)
			}
			if b, err := os.ReadFile(script); err != nil || len(b) > 0 {
				t.Errorf("%s has %d bytes after its first use (%v)", depends.ScriptFile, len(b), err)
			}
		})
	}
}

func edit(t *testing.T, root, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(filepath.Join(root, name)) })
}

// deptree has OpenRC make its dependency tree.
func deptree(t *testing.T, root string) string {
	t.Helper()
	os.Remove(filepath.Join(root, "run/openrc/deptree"))
	inRoot(t, root, "/usr/sbin/rc-update", "-u")
	b, err := os.ReadFile(filepath.Join(root, "run/openrc/deptree"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
