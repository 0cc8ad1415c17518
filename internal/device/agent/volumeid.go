package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/diskid"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// volumeIDFile remembers the volume that this node last had.
const volumeIDFile = node.StateDir + "/node/volume.json"

// volumeID is which filesystem the node's volume is, and where it was: names of
// disks swap from boot to boot (flatcar/Flatcar#222, kairos-io/kairos#2243).
type volumeID struct {
	Place string `json:"place"` // as volumePlace
	UUID  string `json:"uuid"`  // of the ext4
}

// readVolumeID returns the volume that the node had, or the zero value.
func readVolumeID(name string) (volumeID, error) {
	var id volumeID
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
func (id volumeID) remember(name string) error {
	if was, err := readVolumeID(name); err == nil && was == id {
		return nil
	}
	b, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return keep(name, append(b, '\n'))
}

// volumePlace says where the config has the volume, for people and to compare.
func volumePlace(cfg *nodeconfig.Config) string {
	if t, err := cfg.VolumeTarget(); err == nil && cfg.Volume.Place() == nodeconfig.OnISCSI {
		return fmt.Sprintf("%s, LUN %d", t.Name, cfg.Volume.LUN)
	}
	return cfg.Volume.Device
}

// missing returns an error where a disk holds nothing and the node had a volume
// in its place: the disk must not become another one. elsewhere is a disk that
// holds that volume now; "" for none.
func (id volumeID) missing(place string, c content, device, elsewhere string) error {
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
func (id volumeID) another(place, uuid string) string {
	if id.UUID == "" || id.Place != place || id.UUID == uuid {
		return ""
	}
	return fmt.Sprintf("it is another filesystem than this node had there before (UUID %s, and %s before), with its label; from the next boot on it counts as the node's own", uuid, id.UUID)
}

// diskWith returns the first disk or partition whose ext4 fits.
func diskWith(fits func(content) bool) string {
	for _, dev := range diskNames() {
		if c, err := contentOf(dev); err == nil && fits(c) {
			return dev
		}
	}
	return ""
}

// contentOf returns what a disk says it holds, by its beginning.
func contentOf(dev string) (content, error) {
	f, err := os.Open(dev)
	if err != nil {
		return content{}, err
	}
	defer f.Close()
	head := make([]byte, extHead)
	if _, err := io.ReadFull(f, head); err != nil {
		return content{}, err
	}
	c, _ := knownContent(head)
	return c, nil
}

// namedDisk returns the disk that LABEL=... or UUID=... names, as fstab(5) has
// it, or a name in /dev/disk/by-id; any other text is the name of a device
// itself.
func namedDisk(device string, find func(func(content) bool) string) (string, error) {
	if id, ok := strings.CutPrefix(device, nodeconfig.ByID); ok {
		name, err := diskid.Find("/sys", id)
		return "/dev/" + name, err
	}
	kind, value, ok := strings.Cut(device, "=")
	if !ok {
		return device, nil
	}
	dev := find(func(c content) bool {
		return c.Ext4 && (kind == "LABEL" && c.Label == value || kind == "UUID" && strings.EqualFold(c.UUID, value))
	})
	if dev == "" {
		return "", fmt.Errorf("no disk holds an ext4 with %s; there are %s", device, strings.Join(diskNames(), ", "))
	}
	return dev, nil
}

// forgetVolume has the node take a blank disk in place of the volume it had.
func forgetVolume(out io.Writer) error {
	if err := forget(volumeIDFile); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, "forgotten; a blank disk is formatted where the config says format: blank")
	return err
}
