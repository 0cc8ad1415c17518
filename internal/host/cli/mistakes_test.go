package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMistakesSayWhatToDo runs the command line wrongly.
func TestMistakesSayWhatToDo(t *testing.T) {
	dir := t.TempDir()
	newSpec(t, dir)
	write(t, dir+"/bad.yaml", "name: Bad Name\nrelease: one\nbords: [rpi3]\nboards: [rpi9]\npackages: [a, 'b<<1']\nrepositories: [{url: "+
		"x}]\nconfig: {all: {lines: ['"+strings.Repeat("x", 80)+"', 'kernel=mine']}}\nslot-size: big\nkernel: {words: ['two words']}\n"+
		"console: admin\n", 0o644)
	write(t, dir+"/ghost.yaml", "name: g\nrelease: '1'\nrepositories: [{url: starter, keys: [starter/starter.rsa.pub]}]\npackages: "+
		"[alpine-base, ghost]\n", 0o644)
	write(t, dir+"/service.yaml", "name: g\nrelease: '1'\nboards: [vm]\nrepositories: [{url: starter, keys: [starter/starter.rsa.pub]}]\n"+
		"packages: [alpine-base]\nservices: {default: [ghostd]}\n", 0o644)
	write(t, dir+"/notpem", "x", 0o644)
	for _, c := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"build", "bad.yaml"}, 2, []string{
			"bad.yaml:1: name: ", "bad.yaml:2: release: ", "bad.yaml:3: bords: there is no such field",
			"bad.yaml:4: boards[0]: there is no board \"rpi9\"; there are rpi3, rpi4",
			"bad.yaml:5: packages[1]: ", "bad.yaml:6: repositories[0].keys: missing", "bad.yaml:7: config.all.lines[0]: 80 characters",
			"lines[1]: kernel is the builder's",
			"bad.yaml:8: invalid size \"big\"; write it as 512MiB", "bad.yaml:9: kernel.words[0]", "bad.yaml:10: console: "}},
		{[]string{"build", "none.yaml"}, 1, []string{"none.yaml: no such file"}},
		{[]string{"build"}, 2, []string{"want the image spec", "--help"}},
		{[]string{"build", "--fast", "image.yaml"}, 2, []string{"unknown flag: --fast"}},
		{[]string{"bild"}, 2, []string{"unknown command \"bild\""}},
		{[]string{"build", "ghost.yaml"}, 1, []string{"no package ghost"}},
		{[]string{"build", "service.yaml"}, 1, []string{"the image has no service \"ghostd\"; it has ", "networking"}},
		{[]string{"build", "--sign-key", "notpem", "image.yaml"}, 1, []string{"no PEM block found"}},
		{[]string{"vm", "run", "none.img"}, 1, []string{"none.img: no such file", "pikelet build"}},
		{[]string{"vm", "run", "--machine", "pi9", "image.yaml"}, 1, []string{"unknown machine \"pi9\""}},
		{[]string{"vm", "run", "image.yaml"}, 1, []string{"the firmware found nothing to boot"}},
	} {
		out, code := pikelet(t, dir, nil, c.args...)
		if code != c.code {
			t.Errorf("%v: exit %d, want %d\n%s", c.args, code, c.code, out)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%v: no %q in\n%s", c.args, want, out)
			}
		}
	}
	if _, err := os.Stat(dir + "/out/disk.img"); err == nil {
		t.Error("a failed build left a disk image")
	}
}

// TestTamperedPackageStopsTheBuild: what the index does not mean never
// reaches an image, and an earlier build's files stay as they were.
func TestTamperedPackageStopsTheBuild(t *testing.T) {
	dir := t.TempDir()
	newSpec(t, dir)
	if out, err := exec.Command("cp", "-rL", dir+"/starter/aarch64", dir+"/repo").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	key, err := os.ReadFile(dir + "/starter/starter.rsa.pub")
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(dir + "/starter")
	write(t, dir+"/starter/starter.rsa.pub", string(key), 0o644)
	if err := os.Rename(dir+"/repo", dir+"/starter/aarch64"); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/out/disk.img", "earlier", 0o644)
	name, err := filepath.Glob(dir + "/starter/aarch64/busybox-1*.apk")
	if err != nil || len(name) != 1 {
		t.Fatal(name, err)
	}
	b, err := os.ReadFile(name[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	write(t, name[0], string(b), 0o644)
	out, code := pikelet(t, dir, nil, "build", "-o", "out", "image.yaml")
	if strings.Contains(out, "unpacking packages:") {
		t.Errorf("a step that failed is said to be done:\n%s", out)
	}
	if code != 1 || !strings.Contains(out, "package busybox-") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	if b, err := os.ReadFile(dir + "/out/disk.img"); err != nil || string(b) != "earlier" {
		t.Error("a failed build touched the image that was there")
	}
	left, _ := filepath.Glob(dir + "/out/.*")
	if len(left) != 0 {
		t.Errorf("a failed build left %v", left)
	}
}
