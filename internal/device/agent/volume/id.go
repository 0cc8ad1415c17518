package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/pikelet-os/pikelet/internal/device/agent/statefile"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// idFile remembers the volume that this node last had.
const idFile = node.StateDir + "/node/volume.json"

// identity is which filesystem the node's volume is, and where it was: names of
// disks swap from boot to boot (flatcar/Flatcar#222, kairos-io/kairos#2243).
type identity struct {
	Place string `json:"place"` // as place
	UUID  string `json:"uuid"`  // of the ext4
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

// place says where the config has the volume, for people and to compare.
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
	where := "no disk here holds it"
	if elsewhere != "" {
		where = "it is on " + elsewhere + " now: say device: UUID=" + id.UUID
	}
	return fmt.Errorf("%s is blank, and is not formatted: this node had a volume there, with the UUID %s; %s. "+
		"If that is gone and this is to take its place: pikeletd volume forget", device, id.UUID, where)
}

// another says that a volume is not the one the node had in its place; "" where
// it is, or there was none.
func (id identity) another(place, uuid string) string {
	if id.UUID == "" || id.Place != place || id.UUID == uuid {
		return ""
	}
	return fmt.Sprintf("it is another filesystem than this node had there before (UUID %s, and %s before), with its "+
		"label; from the next boot on it counts as the node's own", uuid, id.UUID)
}

// Forget has the node take a blank disk in place of the volume it had.
func Forget(out io.Writer) error {
	if err := statefile.Remove(idFile); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, "forgotten; a blank disk is formatted where the config says format: blank")
	return err
}
