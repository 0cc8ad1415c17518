//go:build full

package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// TestSameBytesElsewhere builds one image with this machine's assembler, with
// none, and on arm64: every file must be the same.
func TestSameBytesElsewhere(t *testing.T) {
	dir := t.TempDir()
	newSpecOver(t, dir, starterFolder(t))
	write(t, dir+"/image.yaml", "name: tiny\nrelease: '1'\nboards: [vm]\nrepositories: [{url: starter, keys: [starter/starter.rsa.pub]}]\n"+
		"packages: [alpine-base]\nslot-size: 40MiB\n", 0o644)
	ok(t, dir, "build", "--zst", "-o", "here", "image.yaml")
	for name, c := range map[string]struct{ env, args, run []string }{
		"purego": {nil, []string{"-tags", "purego,noasm"}, nil},
		"arm64":  {[]string{"GOARCH=arm64"}, nil, []string{"qemu-aarch64-static"}},
	} {
		tool := filepath.Join(dir, "pikelet-"+name)
		build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", tool)
		build.Args = append(append(build.Args, c.args...), "../../../cmd/pikelet")
		build.Env = append(append(os.Environ(), "CGO_ENABLED=0"), c.env...)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		args := slices.Concat(c.run, []string{tool, "build", "--zst", "-o", name, "image.yaml"})
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Env = dir, []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		must(t, dir, "diff -r here "+name)
	}
}
