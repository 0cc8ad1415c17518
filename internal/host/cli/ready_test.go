package cli

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/builder/spec"
)

// ready is the directory of the ready image's spec.
const ready = "../../../examples/ready/"

// workflow is what a workflow of this repository has.
type workflow struct {
	Name        string
	On          map[string]any
	Permissions map[string]string
	Jobs        map[string]struct {
		RunsOn         string `yaml:"runs-on"`
		TimeoutMinutes int    `yaml:"timeout-minutes"`
		Permissions    map[string]string
		Steps          []struct {
			Name, Uses, Run  string
			WorkingDirectory string `yaml:"working-directory"`
			With, Env        map[string]string
		}
	}
}

// TestReadySpec: the spec of the ready image is read strictly, is for each Pi, trusts the key that the
// workflow signs with, and lets no one in without a config.
func TestReadySpec(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/image.yaml", strings.Replace(mustRead(t, ready+"image.yaml"), "https://MIRROR/", "https://mirror.example/", 1), 0o644)
	write(t, dir+"/release.pub", "a key", 0o644)
	write(t, dir+"/alpine-devel@lists.alpinelinux.org-616ae350.rsa.pub", "a key", 0o644)
	img, err := spec.Load(dir + "/image.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range boards.Names() {
		b, err := boards.Find(name)
		if err != nil || b.Virtual == slices.Contains(img.Boards, name) {
			t.Errorf("the image is for %v: %s (%v)", img.Boards, name, err)
		}
	}
	if !slices.Equal(img.Keys, []string{"release.pub"}) || img.Console == "root" || img.Inventory != "" {
		t.Errorf("keys %q, console %q, inventory %q", img.Keys, img.Console, img.Inventory)
	}
}

// TestReadyImages runs what the workflow runs for the ready image, over the starter's packages: a signed
// image, and a list for Raspberry Pi Imager with its address in the release, are what is added to it.
func TestReadyImages(t *testing.T) {
	var w workflow
	dec := yaml.NewDecoder(strings.NewReader(mustRead(t, "../../../.github/workflows/images.yml")))
	dec.KnownFields(true)
	if err := dec.Decode(&w); err != nil {
		t.Fatal(err)
	}
	job := w.Jobs["images"]
	if w.Permissions["contents"] != "read" || job.Permissions["contents"] != "write" || w.On["release"] == nil {
		t.Errorf("the workflow is %+v", w)
	}
	script := ""
	for _, s := range job.Steps {
		if s.Uses != "" && !regexp.MustCompile(`^[a-z/-]+@[0-9a-f]{40}$`).MatchString(s.Uses) {
			t.Errorf("%s is not pinned", s.Uses)
		}
		if s.WorkingDirectory == "examples/ready" {
			script += s.Run + "\n"
		}
	}
	dir := newCI(t)
	text := strings.Replace(mustRead(t, dir+"/image.yaml"), "packages:", "mirror: https://MIRROR/alpine\npackages:", 1)
	write(t, dir+"/examples/ready/image.yaml", text+"keys: [release.pub]\n", 0o644)
	write(t, dir+"/bin/gh", "#!/bin/sh\necho \"$@\" > gh.txt\n", 0o755)
	must(t, dir, "openssl pkey -in ci.key -pubout -out ci.pub && "+
		"mv files starter examples/ready/ && mkdir build && ln -s ../pikelet build/pikelet")
	cmd := exec.Command("bash", "-e", "-o", "pipefail", "-c", script)
	cmd.Dir = dir + "/examples/ready"
	cmd.Env = []string{"BE_PIKELET=1", "HOME=" + dir, "XDG_CACHE_HOME=" + dir + "/cache", "RUNNER_TEMP=" + dir,
		"PATH=" + dir + "/bin:" + os.Getenv("PATH"), "GITHUB_REF_NAME=v2.3.4", "GITHUB_REPOSITORY=someone/pikelet",
		"ALPINE_MIRROR=https://mirror.example", "ALPINE_KEY=a key", "RELEASE_PUB=" + mustRead(t, dir+"/ci.pub"),
		"PIKELET_KEY=" + mustRead(t, dir+"/ci.key")}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const files = "www/image.yaml www/image.yaml.lock www/os_list.json www/pikelet.svg www/release.pub www/disk.img.bmap " +
		"www/twin-2.3.4.img.zst"
	said := strings.Fields(mustRead(t, dir+"/examples/ready/gh.txt"))
	want := append([]string{"release", "upload", "v2.3.4"}, strings.Fields(files)...)
	slices.Sort(said)
	slices.Sort(want)
	if !slices.Equal(said, want) {
		t.Errorf("added to the release: %q, want %q", said, want)
	}
	var list struct {
		Systems []struct{ URL string } `json:"os_list"`
	}
	if err := json.Unmarshal([]byte(mustRead(t, dir+"/examples/ready/www/os_list.json")), &list); err != nil || len(list.Systems) != 1 ||
		list.Systems[0].URL != "https://github.com/someone/pikelet/releases/download/v2.3.4/twin-2.3.4.img.zst" {
		t.Errorf("the list has %+v, %v", list, err)
	}
	must(t, dir, "zstd -q -d -c examples/ready/www/twin-2.3.4.img.zst | cmp - examples/ready/out/disk.img && [ ! -e key ]")
}
