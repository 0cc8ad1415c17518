//go:build oracle

package apk

import (
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// make has apk make a package of a random tree and a random record. No pipe is in
// it: apk mkpkg would wait for one to write.
func (j *judge) make(seed uint64) made {
	j.t.Helper()
	r := mathrand.New(mathrand.NewPCG(seed, 3))
	m := made{name: fmt.Sprintf("p%d", seed), scripts: map[string]string{}}
	m.version = fmt.Sprintf("%d.%d-r%d", r.IntN(9), r.IntN(99), r.IntN(9))
	m.dir, m.file = j.dir+"/"+m.name, j.dir+"/"+m.name+".apk"
	j.tree(m.dir, r, int(seed%12)*4)
	args := []string{"mkpkg", "--output", m.file, "--info", "name:" + m.name, "--info", "version:" + m.version, "--info", "arch:" +
		[]string{"noarch", "aarch64", "x86_64"}[r.IntN(3)]}
	if seed%12 != 0 {
		args = append(args, "--files", m.dir)
	} else if err := os.MkdirAll(m.dir, 0o755); err != nil {
		j.t.Fatal(err)
	}
	for key, values := range map[string][]string{
		"description": {"A tool", strings.Repeat("long ", 80) + "text", "ümlaut"}, "license": {"MIT", "GPL-2.0-only AND MIT"},
		"origin":     {"source"},
		"maintainer": {"A Person <a@example.org>"}, "url": {"https://example.org/x"}, "repo-commit": {strings.Repeat("0a", 20)},
		"build-time": {"1700000000", "5000000000"}, "provider-priority": {"1", "100"},
		"depends":  {"a", "a b>1 !c so:libc.so.6 d=1.2-r0 e~1.3 f<2 g>=1 h<=3 i<~1 j>~2", "x><Q1YWFhYWFhYWFhYWFhYWFhYWFhYWE="},
		"provides": {"cmd:a=1 virtual so:libx.so.1=1.0"}, "replaces": {"old<1 other"}, "install-if": {"openrc base=1-r0"},
		"recommends": {"nice"}, "tags": {"one two"},
	} {
		if r.IntN(2) == 0 {
			args = append(args, "--info", key+":"+values[r.IntN(len(values))])
		}
	}
	for kind := range map[string]int{"trigger": 1, "pre-install": 2, "post-install": 3, "pre-deinstall": 4, "post-deinstall": 5,
		"pre-upgrade": 6, "post-upgrade": 7} {
		if r.IntN(4) == 0 {
			m.scripts[kind] = "#!/bin/sh\n" + strings.Repeat("# "+kind+"\n", 1+r.IntN(8000))
			args = append(args, "--script", kind+":"+j.write("script", []byte(m.scripts[kind]))+kind)
			j.write("script"+kind, []byte(m.scripts[kind]))
		}
	}
	for range r.IntN(3) {
		m.triggers = append(m.triggers, fmt.Sprintf("/usr/share/%d/*", r.IntN(100)))
		args = append(args, "--trigger", m.triggers[len(m.triggers)-1])
	}
	if r.IntN(3) == 0 {
		m.priority = 1 + r.IntN(100)
		args = append(args, "--info", fmt.Sprint("replaces-priority:", m.priority))
	}
	args = append(args, "--compression", []string{"none", "deflate", "deflate:1", "zstd", "zstd:19", "zstd:22"}[r.IntN(6)])
	if r.IntN(2) == 0 {
		args = append(args, "--compat", []string{"3.0.0_pre1", "3.0.0_pre3", "3.0.0"}[r.IntN(3)])
	}
	switch r.IntN(3) {
	case 0:
		args = append(args, "--sign-key", j.dir+"/rsa.key", "--sign-key", j.dir+"/ec.key")
	case 1:
		args = append(args, "--sign-key", j.dir+"/rsa.key")
	default:
		args = append(args, "--sign-key", j.dir+"/ec.key")
	}
	j.run(args...)
	return m
}

// tree makes n files below a directory: of all kinds, modes and owners.
func (j *judge) tree(dir string, r *mathrand.Rand, n int) {
	j.t.Helper()
	must := func(err error) {
		j.t.Helper()
		if err != nil {
			j.t.Fatal(err)
		}
	}
	must(os.MkdirAll(dir, 0o755))
	dirs, files := []string{dir}, []string(nil)
	for i := range n {
		begin := []string{"f", ".hidden", "ü", strings.Repeat("long", 40)}[r.IntN(4)]
		name := filepath.Join(dirs[r.IntN(len(dirs))], begin+fmt.Sprint(i))
		kind := r.IntN(12)
		switch {
		case kind < 3:
			must(os.Mkdir(name, 0o755))
			dirs = append(dirs, name)
		case kind == 3:
			must(os.Symlink([]string{"f", "../../x", "/abs/olute"}[r.IntN(3)], name))
		case kind == 4:
			must(syscall.Mknod(name, []uint32{syscall.S_IFCHR, syscall.S_IFBLK}[r.IntN(2)]|0o600,
				int(unix.Mkdev(uint32(r.IntN(4096)), uint32(r.IntN(1<<20))))))
		case kind == 5 && len(files) > 0:
			must(os.Link(files[r.IntN(len(files))], name))
		default:
			b := make([]byte, []int{0, 1, 7, 8, 100, 5000, 300000}[r.IntN(7)])
			for i := range b {
				b[i] = byte(r.IntN(4))
			}
			must(os.WriteFile(name, b, 0o644))
			must(os.Chtimes(name, time.Unix(1600000000, 0), time.Unix(1600000000+int64(r.IntN(1e6)), 0)))
			files = append(files, name)
		}
		if kind != 3 && r.IntN(3) == 0 {
			must(os.Lchown(name, []int{0, 1, 2, 65534}[r.IntN(4)], []int{0, 4, 42, 65534}[r.IntN(4)]))
		}
		if kind != 3 && r.IntN(3) == 0 {
			must(unix.Chmod(name, []uint32{0o4755, 0o600, 0o1777, 0o2750, 0}[r.IntN(5)]))
		}
		if (kind < 3 || kind > 5) && r.IntN(4) == 0 {
			if kind < 3 { // apk mkpkg leaves out attributes of a directory that is like any
				must(unix.Chmod(name, 0o750))
			}
			must(unix.Lsetxattr(name, "user.test", []byte{1, 0, byte(i)}, 0))
		}
	}
}
