package spec_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/pikelet-os/pikelet/builder/spec"
)

// Paths in a spec are relative to its file.
func ExampleLoad() {
	dir, err := os.MkdirTemp("", "spec")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "image.yaml")
	for name, text := range map[string]string{
		filepath.Join(dir, "alpine.rsa.pub"): "",
		file: `name: homelab
release: "1.4"
repositories:
  - url: https://mirror.example/alpine/v{alpine}/main
    keys: [alpine.rsa.pub]
packages: [alpine-base]
overlays: [ssh]
`,
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			fmt.Println(err)
			return
		}
	}
	img, err := spec.Load(file)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(img.Stream, img.Release, img.Repositories[0].URL)
	// Output: homelab 1.4 https://mirror.example/alpine/v3.23/main
}
