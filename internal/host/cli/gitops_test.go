package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	kyaml "k8s.io/apimachinery/pkg/util/yaml"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/host/rolloutfile"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/rollout/v1alpha1"
)

// gitops is the example of a repository.
const gitops = "../../../examples/gitops/"

// TestGitOpsExampleReads: each file of the example is read strictly, by what reads
// it, and all of them are about one repository.
func TestGitOpsExampleReads(t *testing.T) {
	dir := t.TempDir() // where people have put in what the example leaves out
	write(t, dir+"/image.yaml", strings.Replace(mustRead(t, gitops+"image.yaml"), "https://MIRROR/", "https://mirror.example/", 1), 0o644)
	for _, key := range []string{"/ci.pub", "/keys/alpine-devel@lists.alpinelinux.org-616ae350.rsa.pub"} {
		write(t, dir+key, "a key", 0o644)
	}
	img, err := spec.Load(dir + "/image.yaml")
	if err != nil {
		t.Fatal(err)
	}
	nodes := strings.Replace(mustRead(t, gitops+"nodes.yaml"), "AAAA you@desk", "AAAB you@desk", 1)
	inventory, err := nodeconfig.Load("nodes.yaml", []byte(nodes), boards.Names(), true)
	if err != nil || inventory.Inventory == nil || len(inventory.Inventory.Nodes) == 0 {
		t.Errorf("the inventory: %+v, %v", inventory, err)
	}
	r := strictRollout(t, []byte(mustRead(t, gitops+"cluster/rollout.yaml")))
	if want := "registry.example/pi/homelab:" + img.Release + "@sha256:"; !strings.HasPrefix(r.Spec.Image, want) {
		t.Errorf("the Rollout's image is %s, want %s...", r.Spec.Image, want)
	}
	workflow := mustRead(t, gitops+".github/workflows/release.yaml")
	if !strings.Contains(workflow, "REPOSITORY: registry.example/pi/homelab #") || !strings.Contains(workflow, "commit -m \"Roll out") {
		t.Error("the workflow is of another repository, or commits nothing")
	}
	for _, key := range img.Keys {
		if !strings.Contains(mustRead(t, gitops+"README.md"), "`"+key+"`") {
			t.Errorf("README.md does not say where %s comes from", key)
		}
	}

	readFlux(t)
}

// readFlux reads the objects of Flux strictly, and checks that they go together.
func readFlux(t *testing.T) {
	type metadata struct{ Name, Namespace string }
	var source struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   metadata
		Spec       struct {
			Interval, URL string
			Ref           struct{ Branch string }
		}
	}
	var kustomization struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   metadata
		Spec       struct {
			Interval, Path string
			SourceRef      struct{ Kind, Name string } `yaml:"sourceRef"`
			Prune          bool
		}
	}
	dec := yaml.NewDecoder(strings.NewReader(mustRead(t, gitops+"cluster/flux.yaml")))
	dec.KnownFields(true)
	for _, v := range []any{&source, &kustomization} {
		if err := dec.Decode(v); err != nil {
			t.Fatalf("flux.yaml: %v", err)
		}
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		t.Errorf("flux.yaml has more than two documents (%v)", err)
	}
	if source.APIVersion != "source.toolkit.fluxcd.io/v1" || kustomization.APIVersion != "kustomize.toolkit.fluxcd.io/v1" {
		t.Errorf("the kinds are of %s and %s", source.APIVersion, kustomization.APIVersion)
	}
	ref := kustomization.Spec.SourceRef
	if source.Kind != ref.Kind || source.Metadata.Name != ref.Name || source.Metadata.Namespace != kustomization.Metadata.Namespace {
		t.Errorf("the Kustomization's source is %+v, and the source %+v", ref, source)
	}
	if _, err := os.Stat(gitops + kustomization.Spec.Path + "/rollout.yaml"); err != nil {
		t.Error(err)
	}
}

// strictRollout reads a Rollout as the API server and the controller would.
func strictRollout(t *testing.T, b []byte) v1alpha1.Rollout {
	t.Helper()
	var r v1alpha1.Rollout
	text, err := kyaml.ToJSON(b)
	if err != nil {
		t.Fatal(err)
	}
	strict := json.NewDecoder(bytes.NewReader(text))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&r); err != nil {
		t.Fatal(err)
	}
	var definition struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema struct {
						Properties struct {
							Spec struct {
								Properties struct{ Image struct{ Pattern string } }
							}
						}
					}
				}
			}
		}
	}
	if err := kyaml.Unmarshal([]byte(mustRead(t, "../../../overlays/rollout/manifests/pikelet.dev_rollouts.yaml")), &definition); err != nil {
		t.Fatal(err)
	}
	pattern := definition.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties.Spec.Properties.Image.Pattern
	if pattern == "" || !regexp.MustCompile(pattern).MatchString(r.Spec.Image) {
		t.Fatalf("the image %q does not match %q, that of the definition", r.Spec.Image, pattern)
	}
	_, digest, _ := strings.Cut(r.Spec.Image, "@")
	if _, err := rollout.DecodeRequest(rollout.Request{ID: "1", Image: r.Spec.Image, Digest: digest}.Encode()); err != nil {
		t.Fatal(err)
	}
	if _, names, err := registry.Repository(r.Spec.Image, registry.Options{}); err != nil || names != digest {
		t.Fatalf("a node reads %q in %s (%v)", names, r.Spec.Image, err)
	}
	return r
}

// TestRenovateReadsRollout: Renovate's configuration finds the one line of the
// example's Rollout, also after publish --rollout wrote it, and writes a line that
// it finds again.
func TestRenovateReadsRollout(t *testing.T) {
	config := readRenovate(t)
	m := config.manager(t, "custom.rollout", "cluster/rollout.yaml")
	source := config.CustomDatasources["rollout"]
	if !strings.HasSuffix(source.DefaultRegistryURLTemplate, "/cluster/rollout.yaml") {
		t.Errorf("the datasource reads %s", source.DefaultRegistryURLTemplate)
	}
	line := regexp.MustCompile(m.MatchStrings[0])
	transform := regexp.MustCompile(regexp.MustCompile(`spec\.image, /(.*)/\)`).FindStringSubmatch(source.TransformTemplates[0])[1])
	file := []byte(mustRead(t, gitops+"cluster/rollout.yaml"))
	digest := "sha256:" + strings.Repeat("0f", 32)
	for _, c := range [][3]string{
		{"registry.example/pi/homelab", "1.0", "sha256:" + strings.Repeat("0", 64)},
		{"registry.example/pi/homelab", "1.10", digest},
		{"registry.example:5000/pi/homelab", "2", digest},
	} {
		reference := c[0] + ":" + c[1] + "@" + c[2]
		changed, err := rolloutfile.SetImage(bytes.ReplaceAll(file, []byte("registry.example/"), []byte(c[0][:strings.Index(c[0], "/")+1])), c[0],
			reference)
		if err != nil {
			t.Fatal(err)
		}
		found := line.FindAllSubmatch(changed, -1)
		if len(found) != 1 {
			t.Fatalf("%s is there %d times in\n%s", line, len(found), changed)
		}
		for i, name := range []string{"depName", "currentValue", "currentDigest"} {
			if got := string(found[0][line.SubexpIndex(name)]); got != c[i] {
				t.Errorf("%s is %q, want %q", name, got, c[i])
			}
		}
		template := strings.NewReplacer("{{{depName}}}", c[0], "{{{newValue}}}", c[1], "{{{newDigest}}}", c[2])
		if written := template.Replace(m.AutoReplaceStringTemplate); written != string(found[0][0]) {
			t.Errorf("Renovate writes %q for %q", written, found[0][0])
		}
		image := strictRollout(t, changed).Spec.Image
		if got := transform.FindStringSubmatch(image); image != reference || !slices.Equal(got, []string{":" + c[1] + "@" + c[2], c[1], c[2]}) {
			t.Errorf("another repository is told %q of %q", got, image)
		}
	}
}
