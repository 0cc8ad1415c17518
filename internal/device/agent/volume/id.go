package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/pikelet-os/pikelet/internal/device/agent/statefile"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// idFile remembers the volume that this node last had.
const idFile = node.StateDir + "/node/volume.json"

// identity is which filesystem the node's volume is, and where it was: names of
// disks swap from boot to boot (flatcar/Flatcar#222, kairos-io/kairos#2243).
type identity struct {
	Place string `json:"place"` // as place
	UUID  string `json:"uuid"`  // of the ext4, or of the LUKS around it
}

// readID returns the volume that the node had, or the zero value.
func readID(name string) (identity, error) {
	var id identity
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return id, fmt.Errorf("%s: %w", name, err)
	}
	return id, nil
}

// remember writes down which volume the node has, where that is new.
func (id identity) remember(name string) error {
	if was, err := readID(name); err == nil && was == id {
		return nil
	}
	b, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return statefile.Write(name, append(b, '\n'))
}

// place returns where the config has the volume, for people and to compare.
func place(cfg *nodeconfig.Config) string {
	if t, err := cfg.VolumeTarget(); err == nil && cfg.Volume.Place() == nodeconfig.OnISCSI {
		return fmt.Sprintf("%s, LUN %d", t.Name, cfg.Volume.LUN)
	}
	return cfg.Volume.Device
}

// missing returns an error where a disk holds nothing and the node had a volume
// in its place: the disk must not become another one. elsewhere is a disk that
// holds that volume now; "" for none.
func (id identity) missing(place string, c content, device, elsewhere string) error {
	if id.UUID == "" || id.Place != place || !c.Blank {
		return nil
	}
	const replace = "to have this disk take its place, run pikeletd volume forget"
	err := fmt.Errorf("%s is blank, and is not formatted: this node had a volume there, with the UUID %s", device, id.UUID)
	if elsewhere == "" {
		return hint.With(fmt.Errorf("%w; no disk here holds it", err), replace)
	}
	return hint.With(fmt.Errorf("%w; it is on %s now", err, elsewhere), "set device: UUID="+id.UUID+"; or, "+replace)
}

// another describes a volume that is not the one the node had in its place; it is
// "" where it is that one, or there was none.
func (id identity) another(place, uuid string) string {
	if id.UUID == "" || id.Place != place || id.UUID == uuid {
		return ""
	}
	return fmt.Sprintf("another filesystem with its label than this node had there before: got UUID %s, want %s; "+
		"from the next boot on the node takes it as its own", uuid, id.UUID)
}

// Forget has the node take a blank disk in place of the volume it had.
func Forget(out io.Writer) error {
	if err := statefile.Remove(idFile); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, "forgotten; a blank disk is formatted where the config says format: blank")
	return err
}
