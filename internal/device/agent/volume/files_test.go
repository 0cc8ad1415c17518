package volume

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/device/etc"
)

const (
	token    = "K10abcdefsecret"
	manifest = "/var/lib/rancher/k3s/server/manifests/mine.yaml"
)

// placed has files written to the volume at dir the way a boot does.
func placed(t *testing.T, dir string, files ...etc.File) error {
	t.Helper()
	for i := range files {
		files[i].UID = os.Getuid()
	}
	b, err := json.Marshal(files)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "waiting")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return placeWaiting(name, dir)
}

// onDisk lists the files below dir, with modes and contents.
func onDisk(t *testing.T, dir string) string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == writtenFiles {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name)
		list = append(list, rel+" "+st.Mode().String()+" "+string(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, "\n")
}

// TestPlaceOnVolume: a volume has the files of the config, and none of an
// earlier one; what others put there stays.
func TestPlaceOnVolume(t *testing.T) {
	dir := t.TempDir()
	foreign := filepath.Join(dir, "var/lib/rancher/k3s/server/manifests/ccm.yaml")
	if err := os.MkdirAll(filepath.Dir(foreign), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(foreign, []byte("k3s'"), 0o600); err != nil {
		t.Fatal(err)
	}
	one := etc.File{Path: manifest, Content: "one", Mode: 0o644}
	secret := etc.File{Path: "/var/lib/kubelet/a/b", Content: token, Mode: 0o600}
	if err := placed(t, dir, one, secret); err != nil {
		t.Fatal(err)
	}
	const k3s = "var/lib/rancher/k3s/server/manifests/ccm.yaml -rw------- k3s'"
	const a, m = "var/lib/kubelet/a/b -rw------- " + token, "var/lib/rancher/k3s/server/manifests/mine.yaml -rw-r--r-- "
	if got, want := onDisk(t, dir), a+"\n"+k3s+"\n"+m+"one"; got != want {
		t.Errorf("at first\n%s\nwant\n%s", got, want)
	}
	was, err := os.Stat(filepath.Join(dir, manifest))
	if err != nil {
		t.Fatal(err)
	}
	if err := placed(t, dir, one, secret); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(dir, manifest)); err != nil || !os.SameFile(st, was) {
		t.Errorf("a file that is as it should be was written again (%v)", err)
	}
	one.Content, one.Mode = "two", 0o600
	if err := placed(t, dir, one); err != nil {
		t.Fatal(err)
	}
	if got, want := onDisk(t, dir), k3s+"\n"+strings.Replace(m, "-rw-r--r--", "-rw-------", 1)+"two"; got != want {
		t.Errorf("with another config\n%s\nwant\n%s", got, want)
	}
	if err := placed(t, dir); err != nil {
		t.Fatal(err)
	}
	if got := onDisk(t, dir); got != k3s {
		t.Errorf("without files\n%s\nwant\n%s", got, k3s)
	}
}

// TestVolumeLinksAreNotFollowed: a link that a pod left on the volume leads no
// file of the config out of it.
func TestVolumeLinksAreNotFollowed(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "var/lib/rancher"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "var/lib/rancher/k3s")); err != nil {
		t.Fatal(err)
	}
	good := etc.File{Path: "/var/lib/kubelet/good", Content: "x", Mode: 0o644}
	err := placed(t, dir, etc.File{Path: manifest, Content: "x", Mode: 0o644}, good)
	if err == nil || !strings.Contains(err.Error(), "writing the config's files on the volume") {
		t.Errorf("a directory that leads out: %v", err)
	}
	if list, _ := os.ReadDir(outside); len(list) > 0 {
		t.Errorf("written outside: %v", list)
	}
	if got := onDisk(t, dir); got != "var/lib/kubelet/good -rw-r--r-- x" {
		t.Errorf("beside it\n%s", got)
	}
}
