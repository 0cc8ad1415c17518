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

	"github.com/pikelet-os/pikelet/builder/lock"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// renovateConfig is what renovate.json of the example has.
type renovateConfig struct {
	Schema            string `json:"$schema"`
	Description       []string
	GitIgnoredAuthors []string
	CustomDatasources map[string]struct {
		Description, DefaultRegistryURLTemplate, Format string
		TransformTemplates                              []string
	}
	CustomManagers []renovateManager
	PackageRules   []struct {
		Description, GroupName string
		MatchDatasources       []string
		SeparateMajorMinor     bool
	}
}

// renovateManager is one of the regexps that Renovate looks with. Renovate's are RE2, as Go's.
type renovateManager struct {
	Description, CustomType, DepNameTemplate, DatasourceTemplate, VersioningTemplate, AutoReplaceStringTemplate string
	ManagerFilePatterns, MatchStrings                                                                           []string
}

// readRenovate reads renovate.json strictly.
func readRenovate(t *testing.T) renovateConfig {
	t.Helper()
	var c renovateConfig
	dec := json.NewDecoder(strings.NewReader(mustRead(t, gitops+"renovate.json")))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		t.Fatal(err)
	}
	return c
}

// manager returns the manager with a datasource, which must look into a file.
func (c renovateConfig) manager(t *testing.T, datasource, file string) renovateManager {
	t.Helper()
	for _, m := range c.CustomManagers {
		if m.DatasourceTemplate != datasource {
			continue
		}
		if !regexp.MustCompile(strings.Trim(m.ManagerFilePatterns[0], "/")).MatchString(file) {
			t.Errorf("%s is not %s", m.ManagerFilePatterns[0], file)
		}
		name, custom := strings.CutPrefix(datasource, "custom.")
		if _, ok := c.CustomDatasources[name]; custom && !ok {
			t.Errorf("there is no datasource %s", datasource)
		}
		return m
	}
	t.Fatalf("no manager with the datasource %s", datasource)
	return renovateManager{}
}

// find returns what the manager finds in a text: of each match the named groups, with
// blanks between.
func (m renovateManager) find(text string, groups ...string) (found []string) {
	for _, expr := range m.MatchStrings {
		re := regexp.MustCompile(expr)
		for _, match := range re.FindAllStringSubmatch(text, -1) {
			var list []string
			for _, g := range groups {
				if i := re.SubexpIndex(g); i >= 0 {
					list = append(list, match[i])
				}
			}
			found = append(found, strings.Join(list, " "))
		}
	}
	return found
}

// TestRenovateReadsLock: Renovate's configuration finds each package of a lock that
// pikelet wrote, once, and nothing else in it.
func TestRenovateReadsLock(t *testing.T) {
	s := newShelf(t)
	for _, p := range []apk.Package{{Name: "libstdc++", Version: "14.2.0-r6"}, {Name: "py3-yaml", Version: "6.0_git20260101-r1"},
		{Name: "tzdata", Version: "2026b-r0"}, {Name: "y", Version: "1.0"}} {
		s.add(p)
	}
	must(t, s.dir, "mkdir files && echo x > files/x")
	s.spec("packages: [libstdc++, py3-yaml, tzdata, y]\nlayers: [{folder: files}]\n")
	ok(t, s.dir, "lock", "image.yaml")
	f, err := lock.Load(s.dir + "/image.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, p := range f.Packages {
		want = append(want, p.Name+" "+p.Version)
	}
	m := readRenovate(t).manager(t, "custom.apk", "image.yaml.lock")
	got := m.find(mustRead(t, s.dir+"/image.yaml.lock"), "depName", "currentValue")
	if len(want) != 6 || strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestRenovateReadsSpec: Renovate's configuration finds the release of k3s and the container
// image of the example's spec, in each form that a spec may have.
func TestRenovateReadsSpec(t *testing.T) {
	spec := mustRead(t, gitops+"image.yaml")
	zeros, ones := strings.Repeat("0", 64), strings.Repeat("1", 64)
	const at = "https://github.com/k3s-io/k3s/releases/download/v1.34.1+k3s1/"
	k3s := "https://github.com k3s-io/k3s v1.34.1+k3s1 "
	tools := "registry.example/pi/tools 1.0 sha256:"
	groups := []string{"registryUrl", "packageName", "currentValue", "currentDigest"}
	c := readRenovate(t)
	for what, text := range map[string]string{
		"the example": spec,
		"one line": "overlays: [{name: k3s, with: {release: " + at + "k3s-arm64, sha256: " + zeros + "}}]\n" +
			"layers: [{oci: registry.example/pi/tools:1.0@sha256:" + zeros + ", to: opt}]\n",
		"no TLS": "release: " + at + "k3s-arm64\nsha256: " + zeros + "\n- {oci: 'http://registry.example/pi/tools:1.0@sha256:" + zeros + "'}\n",
	} {
		got := c.manager(t, "github-release-attachments", "image.yaml").find(text, groups...)
		if len(got) != 1 || got[0] != k3s+zeros {
			t.Errorf("%s: releases of k3s: %q", what, got)
		}
		got = c.manager(t, "docker", "image.yaml").find(text, "depName", "currentValue", "currentDigest")
		if len(got) != 1 || got[0] != tools+zeros {
			t.Errorf("%s: container images: %q", what, got)
		}
	}
	short := "layers: [{oci: alpine:3.23@sha256:" + zeros + "}, {oci: localhost:5000/tools:1@sha256:" + zeros + "}]"
	images := c.manager(t, "docker", "image.yaml").find(short, "depName", "currentValue")
	if !slices.Equal(images, []string{"alpine 3.23", "localhost:5000/tools 1"}) {
		t.Errorf("container images: %q", images)
	}
	got := c.manager(t, "github-release-attachments", "boards/image.yaml").
		find("images: "+at+"k3s-airgap-images-arm64.tar.zst\n  images-sha256: "+ones, groups...)
	if len(got) != 1 || got[0] != k3s+ones {
		t.Errorf("images of k3s: %q", got)
	}
	for _, none := range []string{"oci: r.example/tools:1.0\n", "oci: oci:tools\n", "oci: r.example:5000/tools@sha256:" + zeros} {
		if got := c.manager(t, "docker", "image.yaml").find(none, "depName"); len(got) != 0 {
			t.Errorf("%q: %q", none, got)
		}
	}
}

// steps returns what the jobs of a workflow run that call pikelet.
func steps(t *testing.T, file string) string {
	t.Helper()
	var w struct {
		Jobs map[string]struct{ Steps []struct{ Run string } }
	}
	if err := yaml.Unmarshal([]byte(mustRead(t, file)), &w); err != nil {
		t.Fatal(err)
	}
	script := ""
	for _, j := range w.Jobs {
		for _, s := range j.Steps {
			if strings.Contains(s.Run, "./pikelet ") {
				script += s.Run
			}
		}
	}
	return script
}

// follows runs what the example's workflow does on a branch of Renovate's: after that
// the lock fits the spec, and is the newest.
func follows(t *testing.T, dir string) {
	t.Helper()
	must(t, dir, "git init -q --bare up.git && git remote add origin up.git && git switch -q -c renovate/x && "+
		"git -c user.name=x -c user.email=x@example.org commit -q -a -m 'Update x' && git push -q -u origin renovate/x 2>&1")
	runStep(t, dir, steps(t, gitops+".github/workflows/lock.yaml"))
	must(t, dir, "git diff --exit-code HEAD -- image.yaml.lock image.yaml && "+
		"git log -1 --format=%ae origin/renovate/x | grep -qx ci@git.example")
	if out := ok(t, dir, "outdated", "image.yaml"); !strings.Contains(out, "nothing changed") {
		t.Errorf("after the workflow there is more to do:\n%s", out)
	}
}

// runStep runs a step of a workflow in a clone, with pikelet in it.
func runStep(t *testing.T, dir, script string) {
	t.Helper()
	if err := os.Symlink(os.Args[0], dir+"/pikelet"); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-e", "-o", "pipefail", "-c", script)
	cmd.Dir = dir
	cmd.Env = []string{"BE_PIKELET=1", "HOME=" + dir, "XDG_CACHE_HOME=" + dir + "/cache", "PATH=" + os.Getenv("PATH")}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// TestLockFollowsRenovate: a version that a robot raised in the lock makes a lock that no build takes;
// the example's workflow makes it one again. What is outdated is written where renovate.json reads it.
func TestLockFollowsRenovate(t *testing.T) {
	s := newShelf(t)
	s.add(apk.Package{Name: "tool"})
	s.spec("packages: [tool]\n")
	ok(t, s.dir, "lock", "image.yaml")
	must(t, s.dir, "git init -q -b main . && git add image.yaml image.yaml.lock && "+
		"git -c user.name=x -c user.email=x@example.org commit -q -m first")
	s.add(apk.Package{Name: "tool", Version: "2-r0"})
	edit(t, s.dir+"/image.yaml.lock", "name: tool\n    version: 1-r0", "name: tool\n    version: 2-r0")
	fails(t, s.dir, []string{"build", "-o", "out", "image.yaml"}, "package tool-2-r0")
	must(t, s.dir, "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 | openssl pkey -pubout -out ci.pub && "+
		"echo 'keys: [ci.pub]' >> image.yaml") // the key is nowhere near
	follows(t, s.dir)

	s.add(apk.Package{Name: "tool", Version: "3-r0"})
	script := steps(t, gitops+".github/workflows/outdated.yaml")
	runStep(t, s.dir, script)
	runStep(t, s.dir, "git switch -q renovate/x && git branch -q -D outdated\n"+script) // a second time, over the first one's branch
	must(t, s.dir, "git --git-dir up.git ls-tree --name-only outdated | grep -qx outdated.json")
	var said struct {
		Result struct{ Changes []lock.Change }
	}
	if err := json.Unmarshal([]byte(mustRead(t, s.dir+"/outdated.json")), &said); err != nil || len(said.Result.Changes) == 0 {
		t.Fatalf("%+v, %v", said, err)
	}
	if c := said.Result.Changes[0]; c.Kind != lock.OfPackage || c.Name != "tool" || c.To != "3-r0" {
		t.Errorf("the first change is %+v", c)
	}
	if to := readRenovate(t).CustomDatasources["apk"].DefaultRegistryURLTemplate; !strings.HasSuffix(to, "/outdated/outdated.json") {
		t.Errorf("Renovate reads %s", to)
	}
}
