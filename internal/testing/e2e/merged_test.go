package e2e

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/builder/inspect"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// mergedPackages have all their files in /usr; the others have them in /bin, /lib and
// /sbin, as packages that were built before Alpine's merge
// (https://alpinelinux.org/posts/2025-10-01-usr-merge.html).
var mergedPackages = []string{"alpine-baselayout", "openrc", "libc6", "linux-rpi", "e2fsprogs"}

// mergedRepository is the starter repository with a base layout in which /bin, /lib and
// /sbin are links, and with those packages in the new layout.
func mergedRepository(t *testing.T) string {
	t.Helper()
	const starter = "../../../build/starter"
	dir := t.TempDir()
	key, err := apk.OpenKey(filepath.Join(starter, "starter.rsa"), "starter.rsa.pub")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(starter + "/aarch64/APKINDEX.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	index, err := apk.ReadIndex(b, apk.Keyring{key.Name: &key.Private.PublicKey})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/aarch64", 0o755); err != nil {
		t.Fatal(err)
	}
	for i, p := range index.Packages {
		old, err := filepath.Abs(filepath.Join(starter, "aarch64", p.FileName()))
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, "aarch64", p.FileName())
		if slices.Contains(mergedPackages, p.Name) {
			index.Packages[i] = toUsr(t, old, name, p, key)
		} else if err := os.Symlink(old, name); err != nil {
			t.Fatal(err)
		}
	}
	if b, err = apk.WriteIndex(index, key); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/aarch64/APKINDEX.tar.gz", string(b), 0o644)
	if b, err = os.ReadFile(starter + "/starter.rsa.pub"); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/starter.rsa.pub", string(b), 0o644)
	return dir
}

// toUsr writes a package anew, in the new layout, and returns its record.
func toUsr(t *testing.T, old, name string, p *apk.Package, key *apk.Key) *apk.Package {
	t.Helper()
	b, err := os.ReadFile(old)
	if err != nil {
		t.Fatal(err)
	}
	a, err := apk.OpenArchive(bytes.NewReader(b), int64(len(b)), p, apk.Keyring{key.Name: &key.Private.PublicKey})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	record, err := apk.WritePackage(&out, *p, inUsr(t, a), key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, name, out.String(), 0o644)
	return record
}

// inUsr are the files of a package where the new layout has them. What it has in both
// places already, as links of one to the other, it has once then.
func inUsr(t *testing.T, a *apk.Archive) []apk.File {
	t.Helper()
	at := map[string]apk.File{}
	tops := []string{"bin", "lib", "sbin"}
	err := a.Unpack(func(h *tar.Header, r io.Reader) error {
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		top, _, _ := strings.Cut(name, "/")
		if slices.Contains(tops, name) {
			return nil
		}
		if slices.Contains(tops, top) {
			name = "usr/" + name
			if old, there := at[name]; there && old.Typeflag != tar.TypeSymlink {
				return nil
			}
			if to := h.Linkname; strings.Contains(to, "/") && h.Typeflag == tar.TypeSymlink {
				if !path.IsAbs(to) {
					to = path.Join("/", path.Dir(h.Name), to)
				}
				h.Linkname = to
				if to == "/"+name {
					return nil
				}
			}
		}
		h.Name = name
		at[name] = apk.File{Header: h, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if a.Info.Name == "alpine-baselayout" {
		for _, top := range tops {
			at[top] = apk.File{Header: &tar.Header{Typeflag: tar.TypeSymlink, Name: top, Linkname: "usr/" + top, Mode: 0o777}}
		}
	}
	var files []apk.File
	for _, f := range at {
		files = append(files, f)
	}
	return files
}

// TestMergedUsr boots an image in Alpine's merged layout, of packages in the new layout and
// in the old, with its volume on iSCSI, SSH, and k3s.
func TestMergedUsr(t *testing.T) {
	t.Parallel()
	short(t)
	n := newNAS(t, 64)
	words := append(k3sWords(t, t.TempDir()), "../../../../build/starter", mergedRepository(t), "  - ssh\n", "  - ssh\n  - iscsi\n")
	r, err := buildFilled(t, "k3s.yaml", t.TempDir(), words)
	if err != nil {
		t.Fatal(err)
	}
	known, err := inspect.Open(r.Disk, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer known.Close()
	if s := known.Slots[0]; len(s.Problems) > 0 || len(s.Packages) != len(r.Plan.Packages)+1 {
		t.Errorf("problems: %q; %d packages, want %d and the image", s.Problems, len(s.Packages), len(r.Plan.Packages))
	}
	card := cardOf(t, r)
	configure(t, card, n.config("attic", ", format: blank")+
		"k3s: {role: agent, server: 'https://10.0.0.1:6443', token: t}\ntime: {wait: 1s}\n")
	p := boot(t, card)
	p.prompt()
	p.works("[ $(readlink /bin) = usr/bin ] && [ $(readlink /lib) = usr/lib ] && [ $(readlink /sbin) = usr/sbin ]")
	p.works("[ $(readlink -f /proc/1/exe) = /usr/bin/busybox ] && [ -f /usr/sbin/openrc ]")
	p.works("[ -f /usr/lib/modules/$(uname -r)/modules.dep ]")
	p.works("rc-service pikelet-ssh status && [ $(rc-status -c | wc -l) = 0 ]")
	p.works("cp /run/openrc/deptree /tmp/deptree && rc-update -u && cmp /run/openrc/deptree /tmp/deptree")
	p.works("[ $(grep -c ' took ' /run/pikelet/early.txt) = 9 ] && modprobe dummy && grep ^dummy /proc/modules")
	p.run("pikeletd status", "volume  on iscsi, /dev/sda", "k3s     agent, ok")
	p.run("pikeletd check", "ok      modules", "ok      iptables", "ok      kubelet")
	p.off()
}
