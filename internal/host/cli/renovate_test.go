//go:build renovate

package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/layers/apk"
)

var renovateDir = flag.String("renovate", "", "the directory that make test-renovate installed Renovate into")

// forge serves what the forge of the example and GitHub would.
type forge struct {
	dir      string                 // whose outdated.json the branch "outdated" has
	releases map[string][][2]string // by tag, digest and name of files
	tags     []string               // the newest first
}

// ServeHTTP implements http.Handler.
func (f *forge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at := "http://" + r.Host
	path, tagged := strings.CutPrefix(r.URL.Path, "/api/v3/repos/k3s-io/k3s/releases/tags/")
	switch {
	case r.URL.Path == "/outdated.json":
		http.ServeFile(w, r, f.dir+"/outdated.json")
	case r.URL.Path == "/rollout.yaml":
		http.ServeFile(w, r, f.dir+"/first.yaml")
	case r.URL.Path == "/api/graphql":
		var nodes []map[string]any
		for i, tag := range f.tags {
			nodes = append(nodes, map[string]any{"version": tag, "releaseTimestamp": fmt.Sprintf("2026-0%d-01T00:00:00Z", 9-i),
				"isDraft": false, "isPrerelease": false, "url": at + "/" + tag, "id": i + 1, "name": tag, "description": ""})
		}
		json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"repository": map[string]any{"isRepoPrivate": false,
			"payload": map[string]any{"nodes": nodes, "pageInfo": map[string]any{"hasNextPage": false, "endCursor": ""}}}}})
	case tagged && f.releases[path] != nil:
		json.NewEncoder(w).Encode(map[string]any{"tag_name": path, "html_url": at + "/" + path, "assets": []map[string]any{
			{"name": "k3s-arm64", "size": 70 << 20, "browser_download_url": at + "/large"},
			{"name": "sha256sum-arm64.txt", "size": 200, "browser_download_url": at + "/sums/" + path}}})
	case strings.HasPrefix(r.URL.Path, "/sums/"):
		for _, line := range f.releases[strings.TrimPrefix(r.URL.Path, "/sums/")] {
			fmt.Fprintf(w, "%s  %s\n", line[0], line[1])
		}
	default:
		http.NotFound(w, r)
	}
}

// proposal is a change that Renovate would make.
type proposal struct {
	file, branch string
	replaced, by string // the text in the file
}

// dep is a dependency in a file, as Renovate's log has it.
type dep struct {
	DepName, CurrentValue, CurrentDigest, ReplaceString, AutoReplaceStringTemplate string
	Updates                                                                        []struct{ BranchName, NewValue, NewDigest string }
}

// line is one of Renovate's log.
type line struct {
	Level  int
	Msg    string
	Config json.RawMessage
}

// renovate runs Renovate over a directory, and returns what it would change.
func renovate(t *testing.T, dir string) (list []proposal) {
	t.Helper()
	cmd := exec.Command(*renovateDir+"/node", *renovateDir+"/node_modules/renovate/dist/renovate.js", "--platform=local",
		"--dry-run=lookup", "--require-config=required")
	cmd.Dir = dir
	// Renovate looks nothing up at GitHub without a token, and this one is for loopback.
	rules := `[{"matchHost":"127.0.0.1","insecureRegistry":true,"token":"x"},{"matchHost":"api.github.com","token":"x"}]`
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "LOG_FORMAT=json", "LOG_LEVEL=debug",
		"RENOVATE_HOST_RULES=" + rules, "RENOVATE_BASE_DIR=" + t.TempDir()}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("renovate: %v\n%s", err, out)
	}
	found := false
	for text := range bytes.Lines(out) {
		var l line
		if json.Unmarshal(text, &l) != nil {
			continue
		}
		if l.Level >= 40 && !strings.Contains(string(text), "Cannot find module 're2'") { // an optional one
			t.Errorf("renovate: %s", text)
		}
		if l.Msg != "packageFiles with updates" {
			continue
		}
		found = true
		var files struct {
			Regex []struct {
				PackageFile string
				Deps        []dep
			}
		}
		if err := json.Unmarshal(l.Config, &files); err != nil {
			t.Fatal(err)
		}
		for _, f := range files.Regex {
			for _, d := range f.Deps {
				list = append(list, d.proposals(f.PackageFile)...)
			}
		}
	}
	if !found {
		t.Fatalf("renovate says nothing of updates:\n%s", out)
	}
	return list
}

// proposals returns the updates of a dependency in a file.
func (d dep) proposals(file string) (list []proposal) {
	for _, u := range d.Updates {
		by := strings.NewReplacer(d.CurrentValue, u.NewValue, cmp.Or(d.CurrentDigest, "\x00"), u.NewDigest).Replace(d.ReplaceString)
		if d.AutoReplaceStringTemplate != "" {
			by = strings.NewReplacer("{{{depName}}}", d.DepName, "{{{newValue}}}", u.NewValue, "{{{newDigest}}}", u.NewDigest).
				Replace(d.AutoReplaceStringTemplate)
		}
		list = append(list, proposal{file, u.BranchName, d.ReplaceString, by})
	}
	return list
}

// orchard is a repository as the example's, whose packages, release of k3s, container
// image and Rollout all have newer ones.
type orchard struct {
	*shelf
	host        string    // the registry
	tools       [2]string // digests of the container image, old and new
	k3s, images [2]string // digests of k3s' files, old and new
}

// push pushes a container image to the registry, and returns its digest.
func (o *orchard) push(tag string) string {
	o.t.Helper()
	must(o.t, o.dir, "rm -rf tree layer.tar; mkdir -p tree/opt && echo "+tag+" > tree/opt/tool && tar -C tree -cf layer.tar opt/tool")
	img := writeLayout(o.t, o.t.TempDir(), o.dir+"/layer.tar")
	ref, err := name.NewTag(o.host + "/pi/tools:" + tag)
	if err == nil {
		err = remote.Write(ref, img)
	}
	if err != nil {
		o.t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		o.t.Fatal(err)
	}
	return d.String()
}

// newOrchard plants one, with its servers.
func newOrchard(t *testing.T) *orchard {
	t.Helper()
	hex := func(text string) string { return strings.TrimPrefix(image.DigestOf([]byte(text)), "sha256:") }
	o := &orchard{shelf: newShelf(t), k3s: [2]string{hex("old"), hex("new")}, images: [2]string{hex("old images"), hex("new images")}}
	f := &forge{dir: o.dir, tags: []string{"v1.34.2+k3s1", "v1.34.1+k3s1"}, releases: map[string][][2]string{}}
	for i, tag := range []string{"v1.34.1+k3s1", "v1.34.2+k3s1"} {
		f.releases[tag] = [][2]string{{o.k3s[i], "k3s-arm64"}, {o.images[i], "k3s-airgap-images-arm64.tar.zst"}}
	}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	reg := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(reg.Close)
	o.host = strings.TrimPrefix(reg.URL, "http://")
	o.tools[0] = o.push("1.0")
	for _, p := range []string{"tool", "iptables", "ca-certificates-bundle"} {
		o.add(apk.Package{Name: p})
	}
	release := server.URL + "/k3s-io/k3s/releases/download/v1.34.1+k3s1/"
	o.spec("packages: [tool]\nlayers:\n  - oci: http://" + o.host + "/pi/tools:1.0@" + o.tools[0] + "\n    to: opt/tools\n" +
		"overlays:\n  - name: k3s\n    with:\n      release: " + release + "k3s-arm64\n      sha256: " + o.k3s[0] + "\n" +
		"      images: " + release + "k3s-airgap-images-arm64.tar.zst\n      images-sha256: " + o.images[0] + "\n")
	ok(t, o.dir, "lock", "image.yaml")
	write(t, o.dir+"/renovate.json", strings.NewReplacer(
		"https://git.example/pi/homelab/raw/branch/outdated/outdated.json", server.URL+"/outdated.json",
		"https://git.example/pi/homelab/raw/branch/main/cluster/rollout.yaml", server.URL+"/rollout.yaml",
	).Replace(mustRead(t, gitops+"renovate.json")), 0o644)
	rollout := mustRead(t, gitops+"cluster/rollout.yaml")
	write(t, o.dir+"/cluster/rollout.yaml", rollout, 0o644)
	must(t, o.dir, "git init -q . && git add image.yaml image.yaml.lock renovate.json cluster && "+
		"git -c user.name=x -c user.email=x@example.org commit -q -m first")
	write(t, o.dir+"/first.yaml", strings.Replace(rollout, ":1.0@sha256:"+strings.Repeat("0", 64),
		":1.1@sha256:"+strings.Repeat("1", 64), 1), 0o644)
	o.add(apk.Package{Name: "tool", Version: "2-r0"})
	o.tools[1] = o.push("1.1")
	outdated := ok(t, o.dir, "outdated", "--json", "image.yaml")
	_, result, found := strings.Cut(outdated, `{"result"`)
	if !found {
		t.Fatalf("pikelet outdated --json printed no result:\n%s", outdated)
	}
	write(t, o.dir+"/outdated.json", `{"result"`+result, 0o644)
	return o
}

// TestRenovate runs Renovate itself with the example's configuration over a spec, its
// lock and a Rollout, with an index, GitHub and a registry on loopback; what it would
// change is changed, and the example's workflow makes a lock of it.
func TestRenovate(t *testing.T) {
	if *renovateDir == "" {
		t.Fatal("no Renovate: make test-renovate installs it")
	}
	valid := exec.Command(*renovateDir+"/node", *renovateDir+"/node_modules/renovate/dist/config-validator.js", "--strict",
		gitops+"renovate.json")
	if out, err := valid.CombinedOutput(); err != nil {
		t.Errorf("renovate.json: %v\n%s", err, out)
	}
	o := newOrchard(t)
	var got []string
	for _, u := range renovate(t, o.dir) {
		got = append(got, u.branch+" "+u.file)
		edit(t, o.dir+"/"+u.file, u.replaced, u.by)
	}
	slices.Sort(got)
	tools := "renovate/" + strings.ReplaceAll(o.host, ":", "-") + "-pi-tools-1.x image.yaml"
	if want := []string{tools, "renovate/k3s-1.x image.yaml", "renovate/k3s-1.x image.yaml", "renovate/packages-of-the-lock image.yaml.lock",
		"renovate/registry.example-pi-homelab-1.x cluster/rollout.yaml"}; !slices.Equal(got, want) {
		t.Errorf("the updates are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	diff, err := exec.Command("git", "-C", o.dir, "diff", "-U0").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, diff)
	}
	t.Logf("what Renovate would propose:\n%s", diff)
	for _, want := range []string{
		"-    version: 1-r0\n+    version: 2-r0\n",
		"/pi/tools:1.0@" + o.tools[0] + "\n+  - oci: http://" + o.host + "/pi/tools:1.1@" + o.tools[1] + "\n",
		"v1.34.2+k3s1/k3s-arm64\n+      sha256: " + o.k3s[1] + "\n",
		"v1.34.2+k3s1/k3s-airgap-images-arm64.tar.zst\n+      images-sha256: " + o.images[1] + "\n",
		"homelab:1.1@sha256:" + strings.Repeat("1", 64) + "\n",
	} {
		if !strings.Contains(string(diff), want) {
			t.Errorf("no %q in what Renovate would propose", want)
		}
	}
	if n := strings.Count(string(diff), "\n+") - strings.Count(string(diff), "\n+++"); n != 7 {
		t.Errorf("%d lines changed, want 7", n)
	}
	follows(t, o.dir)
}
