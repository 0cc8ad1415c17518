package patch

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestArm64: what a node writes are the bytes that a desk does. The tests that
// hold them to golden sums, and that apply patches, run as arm64 programs.
func TestArm64(t *testing.T) {
	for pkg, run := range map[string]string{
		"../../builder/squashfs": "TestGolden/fast", "../packing": "TestGolden", "../delta": "TestRoundTrip|TestProgram", ".": "TestMakesTheVeryBytes/fast",
	} {
		t.Run(filepath.Base(pkg), func(t *testing.T) {
			t.Parallel()
			program := filepath.Join(t.TempDir(), "test")
			build := exec.Command("go", "test", "-c", "-o", program, ".")
			build.Dir = pkg
			build.Env = append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			test := exec.Command("qemu-aarch64-static", program, "-test.run", run, "-test.v")
			test.Dir = pkg
			out, err := test.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "--- PASS") || strings.Contains(string(out), "--- SKIP") {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}
