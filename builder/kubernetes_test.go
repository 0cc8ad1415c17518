package builder

import (
	"archive/tar"
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/builder/deviceprogs"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// goProgram returns a Go program whose build information lists modules, as lines of
// go version -m, in the place of one that it has.
func goProgram(t *testing.T, modules string) []byte {
	t.Helper()
	programs, err := deviceprogs.Load()
	if err != nil {
		t.Skip("the device programs are not built") // make check builds them
	}
	old := regexp.MustCompile(`dep\tgithub\.com/google/go-containerregistry\t[^\n]*\n`).Find(programs.Agent)
	room := len(old) - len(modules) - 1
	if room < 0 {
		t.Fatalf("no room for %q in place of %q", modules, old)
	}
	return bytes.ReplaceAll(programs.Agent, old, []byte(modules+strings.Repeat("x", room)+"\n"))
}

// TestKubernetesOfImage: the version is that of the module in the program, of its
// fork where it was built with one, before that of a package; a program that is not
// Go's tells nothing.
func TestKubernetesOfImage(t *testing.T) {
	const service, release = "etc/init.d/pikelet-k3s", "usr/lib/k3s/bin/k3s"
	k3s := goProgram(t, "dep\tk8s.io/kubernetes\tv1.34.4\t\n=>\tgithub.com/k3s-io/kubernetes\tv1.34.5-k3s1\t")
	kubelet := goProgram(t, "dep\tk8s.io/kubernetes\tv1.33.7\t")
	for name, c := range map[string]struct {
		files   map[string][]byte
		links   []string
		version string // of the package k3s; "" for none
		want    string
	}{
		"a release":        {files: map[string][]byte{service: nil, release: k3s}, want: "v1.34.5"},
		"Alpine's package": {files: map[string][]byte{service: nil, "usr/bin/k3s": k3s}, version: "1.33.1.1-r0", want: "v1.34.5"},
		"a kubelet of its own": {
			files: map[string][]byte{service: nil, release: []byte("#!/bin/sh\n"), "usr/lib/k3s/bin/node": kubelet},
			links: []string{"usr/lib/k3s/bin/kubelet->node"}, want: "v1.33.7",
		},
		"the package alone tells": {
			files: map[string][]byte{service: nil, "usr/bin/k3s": []byte("\x7fELF")}, version: "1.33.1.1-r0", want: "v1.33.1",
		},
		"nothing tells":           {files: map[string][]byte{service: nil, "usr/bin/k3s": []byte("\x7fELF")}},
		"a package of no version": {files: map[string][]byte{service: nil}, version: "git"},
		"no k3s":                  {files: map[string][]byte{release: k3s}},
	} {
		tree := layers.NewTree(newContents(t).spool)
		for file, b := range c.files {
			if err := tree.AddFile(tar.Header{Name: file, Mode: 0o755}, "test", b); err != nil {
				t.Fatal(err)
			}
		}
		put(t, tree, "test", c.links...)
		var packages []*apk.Installed
		if c.version != "" {
			packages = []*apk.Installed{{Package: &apk.Package{Name: "k3s", Version: c.version}}}
		}
		got, warnings, err := findKubernetes(tree, packages)
		if err != nil || got != c.want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, c.want)
		}
		_, has := c.files[service]
		if warns := has && c.want == ""; warns != (len(warnings) == 1) {
			t.Errorf("%s: got warnings %v", name, warnings)
		}
	}
}
