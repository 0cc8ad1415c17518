package cli

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
)

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
		if err := yaml.Unmarshal([]byte(mustRead(t, "../../../examples/ci/"+name+".yaml")), to); err != nil {
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
		warmCache(t, dir)
		if err := makeKey(dir + "/ci.key"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(os.Args[0], dir+"/pikelet"); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("bash", "-e", "-o", "pipefail", "-c", script)
		cmd.Dir = dir
		cmd.Env = []string{"BE_PIKELET=1", "HOME=" + dir, "XDG_CACHE_HOME=" + dir + "/cache", "RUNNER_TEMP=" + dir, "PATH=" + os.Getenv("PATH"),
			"REPOSITORY=" + s.Addr + "/" + name, "SSL_CERT_FILE=" + s.CA, "PIKELET_KEY=" + mustRead(t, dir+"/ci.key"), "PIKELET_KEY_FILE=" + dir +
				"/ci.key"}
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Contains(string(out), "development key") || !strings.Contains(string(out), "chain    verified") {
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
