//go:build cluster

package e2e

import (
	"bytes"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
	"github.com/pikelet-os/pikelet/internal/testing/rig"
)

// registryAt is where nodes find the registry of their network.
const registryAt = registrytest.LANAddr

// registry is one that runs in the network of a cluster.
type registry struct {
	*registrytest.Server
	c   *cluster
	dir string
}

// registry starts a registry in the network.
func (c *cluster) registry() *registry {
	c.t.Helper()
	r := &registry{c: c, dir: c.t.TempDir()}
	r.start(c.t)
	c.t.Cleanup(func() { r.Stop() })
	return r
}

// start starts the registry, again after Stop.
func (r *registry) start(t *testing.T) {
	t.Helper()
	var err error
	if r.Server, err = registrytest.StartInLAN(r.c.lan.LAN, "../../../build/tools/registry", r.dir); err != nil {
		t.Fatal(err)
	}
}

// push puts the container image of tests into the registry.
func (r *registry) push(ref string) {
	r.c.t.Helper()
	programs, err := rig.Find("../../..")
	if err != nil {
		r.c.t.Fatal(err)
	}
	img, err := programs.App()
	if err != nil {
		r.c.t.Fatal(err)
	}
	to, err := name.NewTag(registryAt+"/"+ref, name.Insecure)
	if err != nil {
		r.c.t.Fatal(err)
	}
	transport := &http.Transport{DialContext: r.c.lan.DialContext}
	defer transport.CloseIdleConnections()
	if err := remote.Write(to, img, remote.WithTransport(transport), remote.WithContext(r.c.t.Context())); err != nil {
		r.c.t.Fatal(err)
	}
}

// publish puts an image into the registry as lab:VERSION, and returns its digest.
func (c *cluster) publish(r *builder.Result) (digest string) {
	c.t.Helper()
	program, err := filepath.Abs("../../../build/pikelet")
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := c.lan.Command(c.lan.Name, program, "publish", registryAt+"/lab", "--plain-http", "--image", r.Artifact.Dir,
		"--sign-key", signingFile(c.t))
	out, err := cmd.CombinedOutput()
	_, rest, found := strings.Cut(string(out), "(OCI manifest ")
	digest, _, _ = strings.Cut(rest, ")")
	if err != nil || !found {
		c.t.Fatalf("publishing: %v\n%s", err, out)
	}
	return digest
}

// mirrored has the container runtime find registry.lan in the network.
const mirrored = "registries: {mirrors: {registry.lan: {endpoint: ['http://" + registryAt + "']}}}\n"

// outlivesRegistry: while the registry is away nothing that runs minds, and what
// is to be pulled waits; it runs by itself when the registry is back.
func outlivesRegistry(t *testing.T, m *member, r *registry) {
	r.Stop()
	m.c.apply(`apiVersion: v1
kind: Pod
metadata: {name: pulled, labels: {app: pulled}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: pulled, image: "registry.lan/words:1", args: ["serve", ":8080"]}
`)
	m.eventually("the pull is backed off from", func() bool {
		for _, p := range m.c.pods("app=pulled") {
			for _, s := range p.Status.ContainerStatuses {
				return s.State.Waiting.Reason == "ImagePullBackOff"
			}
		}
		return false
	})
	if n := len(m.running("app=web", 1)); n != 1 || !m.c.node(m.name).ready() {
		t.Error("what ran does not any more")
	}
	r.start(t)
	m.running("app=pulled", 1)
	m.works("crictl images | grep registry.lan/words && crictl ps | grep pulled")
}

// refusesNewer: a release with a kubelet newer than the API server is refused
// before anything of it is written.
func refusesNewer(t *testing.T, m *member) {
	m.c.publish(clusterImage(t, "1.3", func(bin map[string][]byte) {
		bin["k3s"] = moduleOfKubernetes(t, bin["k3s"], "v1.35.0")
	}))
	m.run("pikeletd upgrade --plain-http "+registryAt+"/lab:1.3",
		"release 1.3 brings Kubernetes v1.35.0: a kubelet must not be newer than the API server", "upgrade the servers of the cluster first")
	m.works("pikeletd status --json | grep '\"release\": \"1.0\"' && ! pikeletd status --json | grep '\"update\"'")
}

// moduleOfKubernetes has a Go program say that it was built with a version of
// Kubernetes, in place of another of its modules.
func moduleOfKubernetes(t *testing.T, program []byte, version string) []byte {
	t.Helper()
	old := regexp.MustCompile(`dep\tgithub\.com/klauspost/compress\t[^\n]*\n`).Find(program)
	line := "dep\tk8s.io/kubernetes\t" + version + "\t"
	if len(old) <= len(line) {
		t.Fatalf("%q is no line to replace", old)
	}
	return bytes.ReplaceAll(program, old, []byte(line+strings.Repeat("x", len(old)-len(line)-1)+"\n"))
}
