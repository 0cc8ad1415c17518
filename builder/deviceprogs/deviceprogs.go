// Package deviceprogs holds the programs that run on nodes, built for arm64 by
// make and embedded here, so that building images needs no Go.
package deviceprogs

import (
	"embed"
	"fmt"
)

//go:embed *
var programs embed.FS

// Programs are the device programs' ELF files.
type Programs struct {
	Init  []byte // /init of the initramfs
	Agent []byte // pikeletd
}

// Load returns the programs. It fails in a tool that was built without them.
func Load() (Programs, error) {
	var p Programs
	var err error
	for name, to := range map[string]*[]byte{"pikelet-init": &p.Init, "pikeletd": &p.Agent} {
		if *to, err = programs.ReadFile(name); err != nil {
			return p, fmt.Errorf("this pikelet was built without the program %s for nodes; build it with make", name)
		}
	}
	return p, nil
}
