package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/registrytest"
)

// TestSameBytesElsewhere builds one image with this machine's assembler, with
// none, and on arm64: every file must be the same.
func TestSameBytesElsewhere(t *testing.T) {
	dir := t.TempDir()
	newSpec(t, dir)
	write(t, dir+"/image.yaml", "name: tiny\nrelease: '1'\nboards: [vm]\nrepositories: [{url: starter, keys: [starter/starter.rsa.pub]}]\npackages: [alpine-base]\nslot-size: 40MiB\n", 0o644)
	ok(t, dir, "build", "--zst", "-o", "here", "image.yaml")
	for name, c := range map[string]struct{ env, args, run []string }{
		"purego": {nil, []string{"-tags", "purego,noasm"}, nil},
		"arm64":  {[]string{"GOARCH=arm64"}, nil, []string{"qemu-aarch64-static"}},
	} {
		tool := filepath.Join(dir, "pikelet-"+name)
		build := exec.Command("go", append(append([]string{"build", "-trimpath", "-buildvcs=false", "-o", tool}, c.args...), ".")...)
		build.Env = append(append(os.Environ(), "CGO_ENABLED=0"), c.env...)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		args := append(c.run, tool, "build", "--zst", "-o", name, "image.yaml")
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Env = dir, []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		must(t, dir, "diff -r here "+name)
	}
}

// TestCIExamples runs what the examples for CI run, but for the download.
func TestCIExamples(t *testing.T) {
	var github struct {
		Jobs struct {
			Build struct {
				Steps []struct{ Name, Run string }
			}
		}
	}
	var gitlab struct{ Build struct{ Script []string } }
	for name, to := range map[string]any{"github": &github, "gitlab": &gitlab} {
		if err := yaml.Unmarshal([]byte(mustRead(t, "../../examples/ci/"+name+".yaml")), to); err != nil {
			t.Fatal(err)
		}
	}
	var steps []string
	for _, s := range github.Jobs.Build.Steps {
		if strings.Contains(s.Run, "./pikelet") {
			steps = append(steps, s.Run)
		}
	}
	s := startRegistry(t, registrytest.Options{TLS: true})
	for name, script := range map[string]string{"github": strings.Join(steps, "\n"), "gitlab": strings.Join(gitlab.Build.Script, "\n")} {
		if strings.Count(script, "./pikelet") != 3 {
			t.Fatalf("%s: the script is\n%s", name, script)
		}
		dir := t.TempDir()
		newSpec(t, dir)
		if err := makeKey(dir + "/ci.key"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(os.Args[0], dir+"/pikelet"); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("bash", "-e", "-o", "pipefail", "-c", script)
		cmd.Dir = dir
		cmd.Env = []string{"BE_PIKELET=1", "HOME=" + dir, "RUNNER_TEMP=" + dir, "PATH=" + os.Getenv("PATH"),
			"REPOSITORY=" + s.Addr + "/" + name, "SSL_CERT_FILE=" + s.CA, "PIKELET_KEY=" + mustRead(t, dir+"/ci.key"), "PIKELET_KEY_FILE=" + dir + "/ci.key"}
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Contains(string(out), "development key") || !strings.Contains(string(out), "chain    good") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if !strings.Contains(string(out), s.Addr+"/"+name+":testing (OCI manifest sha256:") {
			t.Errorf("%s: it was not published:\n%s", name, out)
		}
		for _, file := range []string{"disk.img.zst", "disk.img.bmap", "artifact"} {
			if _, err := os.Stat(dir + "/out/" + file); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
