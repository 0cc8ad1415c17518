package patch

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/tools/full"
)

// arm64Tests are those that run as arm64 programs, by package: what holds the
// encoders to golden sums, and in make test-all what applies patches.
func arm64Tests() map[string]string {
	tests := map[string]string{"../../squashfs": "TestGolden/fast", "../../recompress": "TestGolden"}
	if full.Tests {
		tests["../../delta"] = "TestRoundTrip|TestProgram"
		tests["."] = "TestPatchReproducesEveryFile/fast"
	}
	return tests
}

// TestArm64: what a node writes are the bytes that a desk does.
func TestArm64(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs qemu-aarch64-static")
	}
	for pkg, run := range arm64Tests() {
		t.Run(filepath.Base(pkg), func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "test")
			build := exec.Command("go", "test", "-c", "-trimpath", "-vet=off", "-o", program, ".") // compiled for make device too
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
