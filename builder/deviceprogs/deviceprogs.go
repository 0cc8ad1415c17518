// Package deviceprogs holds the programs that run on nodes, built for arm64 by
// make and embedded here, so that building images needs no Go.
package deviceprogs

import (
	"bytes"
	"compress/gzip"
	"embed"
	"fmt"
	"io"
	"slices"
	"strings"
)

//go:embed *
var programs embed.FS

// Programs are the device programs' ELF files.
type Programs struct {
	Init  []byte // /init of the initramfs
	Agent []byte // pikeletd
	// Others are programs that overlays add, by name, compressed with gzip: most
	// images have none of them.
	Others map[string][]byte
}

// others are the names of Others: the controller of rollouts, and what backs up a
// server.
var others = []string{"pikelet-rollout", "pikelet-backup"}

// Load returns the programs. It fails in a tool that was built without them.
func Load() (Programs, error) {
	p := Programs{Others: map[string][]byte{}}
	read := func(name string) (b []byte, err error) {
		if b, err = programs.ReadFile(name); err != nil {
			err = fmt.Errorf("this pikelet was built without the program %s for nodes; build it with make", name)
		}
		return b, err
	}
	var err error
	if p.Init, err = read("pikelet-init"); err != nil {
		return p, err
	}
	if p.Agent, err = read("pikeletd"); err != nil {
		return p, err
	}
	for _, name := range others {
		if p.Others[name], err = read(name + ".gz"); err != nil {
			return p, err
		}
	}
	return p, nil
}

// Other returns one of the programs that overlays add. It fails where there is none
// of that name.
func (p Programs) Other(name string) ([]byte, error) {
	packed, ok := p.Others[name]
	if !ok {
		if !slices.Contains(others, name) {
			return nil, fmt.Errorf("pikelet has no program %q for nodes; it has %s", name, strings.Join(others, ", "))
		}
		return nil, fmt.Errorf("the program %s was not given to this build", name)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("the program %s: %w", name, err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		return nil, fmt.Errorf("the program %s: %w", name, err)
	}
	return b, nil
}
