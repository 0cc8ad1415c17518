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
	var repository struct {
		Jobs struct {
			Release struct {
				Steps []struct{ Name, Run string }
			}
		}
	}
	for file, to := range map[string]any{
		"../../../examples/ci/github.yaml": &github, "../../../examples/ci/gitlab.yaml": &gitlab,
		gitops + ".github/workflows/release.yaml": &repository,
	} {
		if err := yaml.Unmarshal([]byte(mustRead(t, file)), to); err != nil {
			t.Fatal(err)
		}
	}
	var steps []string
	for _, s := range github.Jobs.Build.Steps {
		if strings.Contains(s.Run, "./pikelet") {
			steps = append(steps, s.Run)
		}
	}
	release := ""
	for _, s := range repository.Jobs.Release.Steps {
		if strings.Contains(s.Run, "./pikelet") {
			release += s.Run
		}
	}
	s := startRegistry(t, registrytest.Options{TLS: true})
	proposes(t, s, release)
	for name, script := range map[string]string{"github": strings.Join(steps, "\n"), "gitlab": strings.Join(gitlab.Build.Script, "\n")} {
		if strings.Count(script, "./pikelet") != 3 {
			t.Fatalf("%s: the script is\n%s", name, script)
		}
		dir := newCI(t)
		out, err := runCI(t, dir, s.Addr+"/"+name, s.CA, script)
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

// newCI returns what a job of CI has: a spec, a key, and pikelet.
func newCI(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	newSpec(t, dir)
	warmCache(t, dir)
	if err := makeKey(dir + "/ci.key"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(os.Args[0], dir+"/pikelet"); err != nil {
		t.Fatal(err)
	}
	return dir
}

// runCI runs a script as a job of CI does.
func runCI(t *testing.T, dir, repository, ca, script string) ([]byte, error) {
	t.Helper()
	cmd := exec.Command("bash", "-e", "-o", "pipefail", "-c", script)
	cmd.Dir = dir
	cmd.Env = []string{"BE_PIKELET=1", "HOME=" + dir, "XDG_CACHE_HOME=" + dir + "/cache", "RUNNER_TEMP=" + dir, "PATH=" + os.Getenv("PATH"),
		"REPOSITORY=" + repository, "SSL_CERT_FILE=" + ca, "PIKELET_KEY=" + mustRead(t, dir+"/ci.key"), "PIKELET_KEY_FILE=" + dir + "/ci.key"}
	return cmd.CombinedOutput()
}

// proposes runs the release of the example of a repository: the Rollout's image is
// what was published, and its file is otherwise the example's.
func proposes(t *testing.T, s *registrytest.Server, script string) {
	t.Helper()
	dir, repository := newCI(t), s.Addr+"/gitops"
	file := strings.Replace(mustRead(t, gitops+"cluster/rollout.yaml"), "image: registry.example/pi/homelab", "image: "+repository, 1)
	write(t, dir+"/cluster/rollout.yaml", file, 0o644)
	out, err := runCI(t, dir, repository, s.CA, script)
	if err != nil || strings.Count(script, "./pikelet") != 2 {
		t.Fatalf("gitops: %v\n%s", err, out)
	}
	_, after, _ := strings.Cut(string(out), repository+":1.0 (OCI manifest ")
	digest, _, _ := strings.Cut(after, ")")
	want := strings.Replace(file, "sha256:"+strings.Repeat("0", 64), digest, 1)
	if got := mustRead(t, dir+"/cluster/rollout.yaml"); got != want || got == file {
		t.Errorf("gitops: the Rollout is\n%s\nwant\n%s", got, want)
	}
}
