package rig

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
)

// Where images of tests are, in no registry.
const (
	PauseImage   = "registry.test/pause:1"
	AppImage     = "registry.test/app:1"
	CoreDNSImage = "registry.test/coredns:1"
)

// nodePrograms are the names by which the program of a node is called.
var nodePrograms = []string{
	"flanneld", "kine", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet",
}

// plugins are the network plugins of a release.
var plugins = []string{"bridge", "host-local", "loopback", "portmap"}

// entry is a file of an archive, or a link.
type entry struct {
	name, link string
	mode       int64
	text       []byte
}

func archive(entries []entry) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.text))}
		if e.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.text); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}

// Release returns a release in the form of k3s-arm64: a program that holds the
// archive of all others. change may be nil; it gets the programs by their names
// in bin and may replace them.
func (p Programs) Release(change func(bin map[string][]byte)) ([]byte, error) {
	bin := map[string][]byte{}
	for in, out := range map[string]string{"k3slite": "k3s", "node": "node", "crictl": "crictl"} {
		b, err := os.ReadFile(p.node(in))
		if err != nil {
			return nil, err
		}
		bin[out] = b
	}
	for _, n := range nodePrograms {
		bin[n] = nil
	}
	if change != nil {
		change(bin)
	}
	var entries []entry
	for _, n := range slices.Sorted(maps.Keys(bin)) {
		e := entry{name: "./bin/" + n, mode: 0o755, text: bin[n]}
		if bin[n] == nil {
			e.mode, e.link = 0o777, "node"
		}
		entries = append(entries, e)
	}
	entries = append(entries, entry{name: "./bin/cni", mode: 0o777, link: "k3s"})
	for _, n := range plugins {
		b, err := os.ReadFile(p.node(n))
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{name: "./bin/" + n, mode: 0o777, link: "cni"}, entry{name: "./plugins/" + n, mode: 0o755, text: b})
	}
	b, err := archive(entries)
	if err != nil {
		return nil, err
	}
	z, err := compress(b)
	return append([]byte("\x7fELF, as far as its first bytes go "), z...), err
}

func compress(b []byte) ([]byte, error) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return nil, err
	}
	defer e.Close()
	return e.EncodeAll(b, nil), nil
}

// Images returns an archive of the container images that tests run, in the form
// of k3s-airgap-images-arm64.tar.zst.
func (p Programs) Images() ([]byte, error) {
	all := map[name.Reference]v1.Image{}
	for ref, file := range map[string]string{AppImage: "app", CoreDNSImage: "coredns", PauseImage: ""} {
		img, err := p.image(file)
		if err != nil {
			return nil, fmt.Errorf("making %s: %w", ref, err)
		}
		r, err := name.ParseReference(ref)
		if err != nil {
			return nil, err
		}
		all[r] = img
	}
	var b bytes.Buffer
	if err := tarball.MultiRefWrite(all, &b); err != nil {
		return nil, err
	}
	return compress(b.Bytes())
}

// App returns the container image of AppImage, for registries of tests.
func (p Programs) App() (v1.Image, error) { return p.image("app") }

// image makes the container image of one program; "" is the pause program.
func (p Programs) image(file string) (v1.Image, error) {
	if file == "" {
		return containerImage(pauseProgram())
	}
	program, err := os.ReadFile(p.node(file))
	if err != nil {
		return nil, err
	}
	return containerImage(program)
}

// containerImage makes an image of one program.
func containerImage(program []byte) (v1.Image, error) {
	b, err := archive([]entry{{name: "program", mode: 0o755, text: program}, {name: "tmp/", mode: 0o1777}})
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg.OS, cfg.Architecture, cfg.Config = "linux", "arm64", v1.Config{Entrypoint: []string{"/program"}}
	return mutate.ConfigFile(img, cfg)
}

// pauseProgram is an arm64 program that waits for SIGTERM: ELF of 196 bytes, where
// one of Go's would take megabytes of memory in each pod. It blocks the signal,
// because process 1 of a namespace gets none whose action is the default.
func pauseProgram() []byte {
	const base, headers = 0x400000, 64 + 56
	code := []uint32{
		0xd2880009, 0xf81f0fe9, // the set of SIGTERM, on the stack
		0xd2800000, 0x910003e1, 0xd2800002, 0xd2800103, 0xd28010e8, 0xd4000001, // rt_sigprocmask(SIG_BLOCK, set, 0, 8)
		0x910003e0, 0xd2800001, 0xd2800002, 0xd2800103, 0xd2801128, 0xd4000001, // rt_sigtimedwait(set, 0, 0, 8)
		0xf1003c1f, 0x54ffff21, // again, unless it returned 15
		0xd2800000, 0xd2800bc8, 0xd4000001, // exit_group(0)
	}
	size := uint64(headers + 4*len(code))
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 15: 0})
	for _, v := range []any{
		uint16(2), uint16(183), uint32(1), uint64(base + headers), uint64(64), uint64(0), uint32(0), // executable, AArch64
		[]uint16{64, 56, 1, 64, 0, 0},
		uint32(1), uint32(5), []uint64{0, base, base, size, size, 0x10000}, // one segment to read and execute
		code,
	} {
		binary.Write(&b, binary.LittleEndian, v) // into memory, of fixed sizes
	}
	return b.Bytes()
}

// Programs are what make rig builds.
type Programs struct{ Dir string }

// Find returns the programs that make rig built for a project's directory.
func Find(project string) (Programs, error) {
	p := Programs{filepath.Join(project, "build", "rig")}
	if _, err := os.Stat(p.node("app")); err != nil {
		return p, fmt.Errorf("the programs of a cluster are missing: make rig builds them: %w", err)
	}
	return p, nil
}

func (p Programs) node(name string) string { return filepath.Join(p.Dir, "arm64", name) }

// control is the control plane, for the computer that tests run on.
func (p Programs) control() string { return filepath.Join(p.Dir, "host", "control") }
