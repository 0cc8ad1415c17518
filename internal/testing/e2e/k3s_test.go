package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
	"github.com/pikelet-os/pikelet/internal/tools/full"
)

// forGuest builds a program of testdata for the guest.
func forGuest(t *testing.T, name string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), name)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./testdata/"+name)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", name, err, text)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tarOf makes an archive of files, and of links to a program cni.
func tarOf(t *testing.T, files map[string][]byte, links ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range links {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: "cni", Mode: 0o777}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstdOf(t *testing.T, b []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll(b, nil)
}

// eaterImage is an archive of a container image, as docker save makes them.
func eaterImage(t *testing.T) []byte {
	t.Helper()
	layerTar := tarOf(t, map[string][]byte{"eater": forGuest(t, "eater")})
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layerTar)), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg.OS, cfg.Architecture, cfg.Config = "linux", "arm64", v1.Config{Entrypoint: []string{"/eater"}}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tarball.Write(name.MustParseReference("registry.test/eater:1"), img, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// keepFile writes a file for a spec and returns its path and digest.
func keepFile(t *testing.T, dir, name string, b []byte) (path, digest string) {
	t.Helper()
	path = filepath.Join(dir, name)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return path, hex.EncodeToString(sum[:])
}

// k3sImage builds testdata/k3s.yaml with a release made of the stand-in.
func k3sImage(t *testing.T) *builder.Result {
	t.Helper()
	return sharedBuildOf(t, "k3s.yaml", func(dir string) []string { return k3sWords(t, dir) })
}

// k3sWords makes what testdata/k3s.yaml names, and returns what stands for its words.
func k3sWords(t *testing.T, dir string) []string {
	t.Helper()
	inner := zstdOf(t, tarOf(t, map[string][]byte{"./bin/k3s": forGuest(t, "k3s"), "./bin/cni": nil}, "./bin/host-local"))
	// A program that holds the archive, after bytes that look like one.
	release := append([]byte("\x7fELF, as far as the first bytes go \x28\xb5\x2f\xfd no archive "), inner...)
	path, digest := keepFile(t, dir, "k3s-arm64", append(release, "the end of the program"...))
	eater := eaterImage(t)
	images, imagesDigest := keepFile(t, dir, "images.tar.zst", zstdOf(t, eater))
	srv := filepath.Join(dir, "srv")
	if err := os.Mkdir(srv, 0o755); err != nil {
		t.Fatal(err)
	}
	keepFile(t, srv, "eater.tar", eater) // ctr reads no compressed ones
	return []string{"FOLDER", srv, "RELEASE", path, "IMAGESHA", imagesDigest, "SHA256", digest, "IMAGES", images}
}

// followK3s shows the log of k3s on the console from its beginning on.
const followK3s = "tail -f /var/log/k3s.log & sleep 1"

// TestK3sRunsInConfiguredRole: an agent from an upstream release, baked in, runs with
// what its config says; a config that makes it a server does so on the boot
// that brings it.
func TestK3sRunsInConfiguredRole(t *testing.T) {
	t.Parallel()
	card := cardOf(t, k3sImage(t))
	enlarge(t, card, 900)
	common := "hostname: attic\ntime: {wait: 1s}\n"
	configure(t, card, common+`k3s:
  role: agent
  server: https://10.0.0.1:6443
  token: a-token
  labels: {room: attic}
  options: {kubelet-arg: [max-pods=30]}
registries: {mirrors: {docker.io: {endpoint: ['https://mirror.lan']}}}
`)
	p := boot(t, card)
	p.prompt()
	p.run(followK3s, "no time server answered within 1s", "k3s stand-in: agent at 2026",
		"path /var/lib/rancher/k3s/data/cni:/usr/lib/k3s/bin:", "kubelet-arg:max-pods=30", "node-label:room=attic", "token:a-token",
		"k3s-airgap-images-arm64.tar.zst", "it has a registries.yaml")
	p.works("[ $(stat -c %a /etc/rancher/k3s/config.yaml) = 600 ]")
	p.works("[ $(readlink /usr/bin/k3s) = /usr/lib/k3s/bin/k3s ]")
	p.works("[ $(readlink /var/lib/rancher/k3s/data/cni/host-local) = /usr/lib/k3s/bin/host-local ]")
	p.run("pikeletd status", "k3s     agent, ok")
	p.run("pikeletd check", "ok      cgroups", "ok      modules", "ok      sysctls", "ok      propagation", "ok      rancher",
		"ok      route", "ok      iptables", "ok      conntrack", "ok      resolv.conf", "ok      inotify", "ok      machine-id",
		"ok      swap", "MISSING time", "ok      kubelet")
	if !full.Tests {
		return
	}
	p.off()
	configure(t, card, common+"k3s: {role: server, token: a-token, options: {cluster-init: true}}\n")
	p = boot(t, card)
	p.prompt()
	p.run(followK3s, "k3s stand-in: server at 2026", "cluster-init:true",
		"/var/lib/rancher/k3s/server/manifests/metallb-metallb-pools.yaml", "metallb-metallb.yaml")
	p.works("cat /var/lib/rancher/k3s/server/manifests/metallb-metallb-pools.yaml | grep -x '    - 10.1.0.0/24'")
	p.works("ls -L /var/lib/rancher/k3s/server/static/charts/metallb-0.1.2.tgz")
	p.off()
	configure(t, card, common+"k3s: {role: server, token: a-token, options: {no-such-option: 1}}\n")
	p = boot(t, card)
	p.prompt()
	p.run(followK3s, "Unknown flag --no-such-option found in config.yaml, skipping", "k3s stand-in: server at 2026")
}

// TestContainerRunsWithinMemoryLimit: containerd and runc start a container from an archive on
// this root, with the overlayfs snapshotter, on the volume, and the kernel
// holds it to its limit of memory.
func TestContainerRunsWithinMemoryLimit(t *testing.T) {
	t.Parallel()
	card := cardOf(t, k3sImage(t))
	enlarge(t, card, 1200)
	p := boot(t, card, func(o *vm.Options) { o.Memory = 1024 })
	p.prompt()
	p.run("(containerd > /var/log/containerd.log 2>&1 &) ; while ! ctr version >/dev/null 2>&1; do sleep 1; done; echo ready''now", "readynow")
	p.works("ctr images import --snapshotter overlayfs /srv/eater.tar")
	const run = "ctr run --rm --snapshotter overlayfs "
	p.run(run+"--memory-limit 67108864 registry.test/eater:1 fits /eater 20; echo exit=$?", "eater: had 20 MiB", "exit=0")
	p.run(run+"--memory-limit 33554432 registry.test/eater:1 big /eater 200; echo exit=$?", "exit=137")
	p.works("dmesg | grep -i 'memory cgroup out of memory'")
	p.works("mount | grep 'type overlay' | grep -q upperdir && df /var/lib/containerd | grep /dev/vda4")
	p.Close()
	if strings.Contains(p.Output(), "eater: had 200 MiB") {
		t.Error("the limit did not bite")
	}
}
