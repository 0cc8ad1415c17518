package etc

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// tree is a directory with packages of the starter repository.
type tree string

// unpack unpacks packages of the starter repository, by their names without
// versions.
func unpack(t *testing.T, packages ...string) tree {
	t.Helper()
	if testing.Short() {
		t.Skip("it needs the starter repository")
	}
	dir := t.TempDir()
	for _, p := range packages {
		all, err := filepath.Glob("../../../build/starter/aarch64/" + p + "-*.apk")
		if err != nil {
			t.Fatal(err)
		}
		version := regexp.MustCompile(`^` + regexp.QuoteMeta(p) + `-[0-9][^-]*-r[0-9]+\.apk$`)
		name := ""
		for _, a := range all {
			if version.MatchString(filepath.Base(a)) {
				name = a
			}
		}
		if name == "" {
			t.Fatalf("%s in build/starter: not found; make starter makes it", p)
		}
		if out, err := exec.Command("tar", "-xzf", name, "-C", dir, "--warning=no-unknown-keyword").CombinedOutput(); err != nil {
			t.Fatalf("unpacking %s: %v: %s", p, err, out)
		}
	}
	// The loader is a link from the root of the tree, which qemu-user would follow
	// out of it.
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() != fs.ModeSymlink {
			return err
		}
		to, err := os.Readlink(name)
		if err != nil || !strings.HasPrefix(to, "/") {
			return err
		}
		if err := os.Remove(name); err != nil {
			return err
		}
		return os.Symlink(filepath.Join(dir, to), name)
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree(dir)
}

// command returns the command line that runs a program of the tree with its own
// libraries.
func (t tree) command(program string, args ...string) []string {
	return append([]string{"qemu-aarch64-static", "-L", string(t), filepath.Join(string(t), program)}, args...)
}

// write writes one file of a config's below the tree.
func (t tree) write(test *testing.T, name, content string) string {
	test.Helper()
	name = filepath.Join(string(t), name)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		test.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		test.Fatal(err)
	}
	return name
}
