package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSigningKeyDoesNotChangeTheImage: with the keys in the spec, whichever of them signs
// makes the same image; and the spec's other words reach it.
func TestSigningKeyDoesNotChangeTheImage(t *testing.T) {
	dir := t.TempDir()
	newSpec(t, dir)
	warmCache(t, dir)
	for _, k := range []string{"one", "two"} {
		if err := makeKey(filepath.Join(dir, k)); err != nil {
			t.Fatal(err)
		}
		must(t, dir, fmt.Sprintf("openssl pkey -in %s -pubout -out %[1]s.pub", k))
	}
	edit(t, dir+"/image.yaml", "name: twin", `name: twin
keys: [one.pub, two.pub]
epoch: 2027-01-02T03:04:05Z
state-size: 32MiB
watchdog: off
channel: registry.example/twin:stable
health: {soak: 90s}`)
	digests := map[string]string{}
	for _, k := range []string{"one", "two"} {
		digests[k] = digestLine(t, ok(t, dir, "build", "--sign-key", k, "-o", "out-"+k, "image.yaml"))
		ok(t, dir, "inspect", "--key", k+".pub", "out-"+k)
	}
	if digests["one"] != digests["two"] {
		t.Errorf("signed by another of the keys it is another image: %v", digests)
	}
	fails(t, dir, []string{"inspect", "--key", "one.pub", "out-two"}, "not signed by a key you gave")
	fails(t, dir, []string{"build", "-o", "out", "image.yaml"}, "the key that signs is none of the spec's keys (one.pub, two.pub)")
	for file, want := range map[string]string{
		"cmdline-a.txt": "pikelet.watchdog=off", "manifest.json": `"epoch": 1798859045`,
		"tree.txt": " /usr/lib/pikelet/defaults.json\n",
	} {
		if got := mustRead(t, dir+"/out-one/"+file); !strings.Contains(got, want) {
			t.Errorf("%s has no %q:\n%.500s", file, want, got)
		}
	}
	st, err := os.Stat(dir + "/out-one/disk.img")
	if err != nil || st.Size() != (68+2*34+32)<<20 {
		t.Errorf("disk.img has %d MiB (%v)", st.Size()>>20, err)
	}
	if out, code := pikelet(t, dir, nil, "completion", "bash"); code != 0 || !strings.Contains(out, "__start_pikelet") {
		t.Errorf("completion: exit %d", code)
	}
}

// outputs runs pikelet, and returns the JSON objects on standard output and those
// on standard error.
func outputs(t *testing.T, dir string, args ...string) (out, logged []map[string]any) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir, cmd.Env = dir, []string{"BE_PIKELET=1", "HOME=" + dir, "XDG_CACHE_HOME=" + dir + "/cache", "PATH=" + os.Getenv("PATH")}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, stderr.String())
	}
	for stream, to := range map[*bytes.Buffer]*[]map[string]any{&stdout: &out, &stderr: &logged} {
		for line := range strings.Lines(stream.String()) {
			var object map[string]any
			if err := json.Unmarshal([]byte(line), &object); err != nil {
				t.Fatalf("%v prints %q: %v", args, line, err)
			}
			*to = append(*to, object)
		}
	}
	return out, logged
}

// TestBuildOutput: lines, with --quiet less, objects with --json, bars on a
// terminal; what is a warning otherwise ends a strict build.
func TestBuildOutput(t *testing.T) {
	dir := t.TempDir()
	newSpec(t, dir)
	warmCache(t, dir)
	edit(t, dir+"/image.yaml", "boards: [rpi3, rpi4, vm]", "boards: [rpi5, vm]")
	if out := ok(t, dir, "build", "-o", "out", "image.yaml"); !strings.Contains(out, "warning: kernel lacks a driver of a board board=rpi5 ") {
		t.Errorf("no warning:\n%s", out)
	}
	if out := ok(t, dir, "build", "--quiet", "-o", "out", "image.yaml"); strings.Count(out, "\n") != 3 {
		t.Errorf("--quiet prints more than the warning and the result:\n%s", out)
	}
	results, logged := outputs(t, dir, "build", "--json", "-o", "out", "image.yaml")
	if len(results) != 1 || results[0]["result"] == nil {
		t.Errorf("--json prints %v to standard output", results)
	}
	kinds := map[string]int{}
	for _, record := range logged {
		kinds[fmt.Sprint(record["level"])]++
		if record["msg"] == "progress" {
			kinds["progress"]++
		}
	}
	if kinds["INFO"]-kinds["progress"] < 3 || kinds["progress"] < 20 || kinds["WARN"] != 1 {
		t.Errorf("--json prints %v to standard error", kinds)
	}
	// On a terminal: bars, and the same lines above and below them.
	cmd := exec.Command("script", "-qec", "stty cols 100 rows 30; "+os.Args[0]+" build -o out image.yaml", "/dev/null")
	cmd.Dir, cmd.Env = dir, []string{"BE_PIKELET=1", "HOME=" + dir, "XDG_CACHE_HOME=" + dir + "/cache", "TERM=vt100", "PATH=" +
		os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	for _, want := range []string{"unpacking packages ", "writing the root ", "writing the disk image ", "=====", " MiB / ",
		"resolved packages", "(OCI manifest sha256:"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("on a terminal: no %q (%v) in\n%s", want, err, out)
		}
	}
	edit(t, dir+"/image.yaml", "name: twin", "name: twin\nstrict: true")
	fails(t, dir, []string{"build", "-o", "out", "image.yaml"}, "the spec is strict:\nkernel lacks a driver of a board board=\"rpi5\" ")
}
