package initramfs

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/go-dmverity/pkg/dm"
	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// newRoot is where the root is mounted before it becomes /.
const newRoot = "/newroot"

// Names of the device-mapper devices: the bytes of root.squashfs in the slot,
// and the same bytes verified.
const (
	linearName = "pikelet-slot"
	verityName = "pikelet-root"
)

// openRoot lays dm-linear over the extents of root.squashfs, dm-verity over
// that, and mounts it. It lies on the slot's partition: on the whole disk it
// would keep state from being mounted. A wrong root hash shows at the mount: it reads blocks.
func (b *boot) openRoot() error {
	params, err := b.img.Verity()
	if err != nil {
		return err
	}
	ctl, err := openControl()
	if err != nil {
		return err
	}
	defer ctl.Close()
	data := b.fetchRoot
	if b.card != nil {
		data = func() (string, error) { return b.linear(ctl) }
	}
	from, err := data()
	if err != nil {
		return err
	}
	sectors := params.DataBlocks * 4096 / disk.SectorSize
	root, err := device(ctl, verityName, []dm.Target{{Length: sectors, Type: "verity", Params: params.Table(from)}})
	if err != nil {
		return err
	}
	b.boot.Root = hex.EncodeToString(params.RootHash)
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(root, newRoot, "squashfs", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mounting the root: %w: dm-verity found a block that is not what was signed, or the device can't be read", err)
	}
	return nil
}

// linear makes one device of the extents of the root in the slot.
func (b *boot) linear(ctl *dm.Control) (string, error) {
	runs, err := b.rootExtents()
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	part := disk.PartitionDevice(b.card.dev, b.line.Slot.Partition())
	if err := unix.Stat(part, &st); err != nil {
		return "", err
	}
	var targets []dm.Target
	var at uint64
	for _, x := range runs {
		n := uint64(x.Size) / disk.SectorSize
		targets = append(targets, dm.Target{SectorStart: at, Length: n, Type: "linear",
			Params: fmt.Sprintf("%d:%d %d", unix.Major(st.Rdev), unix.Minor(st.Rdev), x.Offset/disk.SectorSize)})
		at += n
	}
	return device(ctl, linearName, targets)
}

// rootExtents returns where the root lies in the slot's partition.
func (b *boot) rootExtents() ([]fat.Extent, error) {
	f, ok := b.img.File(image.RootFile)
	if !ok {
		return nil, fmt.Errorf("the signed manifest has no %s", image.RootFile)
	}
	size, runs, err := b.card.slot.Extents(image.RootFile, f.Size)
	if err != nil {
		return nil, err
	}
	if f.Size != size {
		return nil, fmt.Errorf("%s has %d bytes, the signed manifest says %d", image.RootFile, size, f.Size)
	}
	return runs, nil
}

// openControl opens the device-mapper's control node, making it where
// devtmpfs has none yet.
func openControl() (*dm.Control, error) {
	if _, err := os.Stat("/dev/mapper/control"); err != nil {
		misc, err := os.ReadFile("/proc/misc")
		if err != nil {
			return nil, err
		}
		for _, line := range strings.Split(string(misc), "\n") {
			var minor uint32
			var name string
			if n, _ := fmt.Sscan(line, &minor, &name); n == 2 && name == "device-mapper" {
				if err := os.MkdirAll("/dev/mapper", 0o755); err != nil {
					return nil, err
				}
				if err := unix.Mknod("/dev/mapper/control", unix.S_IFCHR|0o600, int(unix.Mkdev(10, minor))); err != nil {
					return nil, err
				}
			}
		}
	}
	return dm.Open()
}

// device makes a read-only device-mapper device and its node.
func device(ctl *dm.Control, name string, targets []dm.Target) (string, error) {
	dev, err := ctl.CreateDevice(name)
	if err != nil {
		return "", err
	}
	if err := ctl.LoadTable(name, targets); err != nil {
		return "", fmt.Errorf("%w (does the device exist, and is it large enough?)", err)
	}
	if err := ctl.SuspendDevice(name, false); err != nil {
		return "", err
	}
	node := filepath.Join("/dev/mapper", name)
	err = unix.Mknod(node, unix.S_IFBLK|0o600, int(dev))
	if errors.Is(err, unix.EEXIST) {
		err = nil
	}
	return node, err
}

// writable are the directories of the root that get memory laid over them, and
// how much of it. What must outlive a boot goes to state, not here.
var writable = []struct{ dir, size string }{
	{"etc", "16m"},
	{"var", "25%"},
}

// prepareRoot moves the basics into the root and lays overlayfs over what
// must be writable.
func (b *boot) prepareRoot() error {
	for _, w := range writable {
		mem := "/run/pikelet/" + w.dir
		if err := os.MkdirAll(mem, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", mem, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size="+w.size); err != nil {
			return fmt.Errorf("mounting memory for /%s: %w", w.dir, err)
		}
		upper, work, target := mem+"/upper", mem+"/work", filepath.Join(newRoot, w.dir)
		for _, d := range []string{upper, work} {
			if err := os.Mkdir(d, 0o755); err != nil {
				return err
			}
		}
		opts := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", target, upper, work)
		if err := unix.Mount("overlay", target, "overlay", 0, opts); err != nil {
			return fmt.Errorf("laying memory over /%s: %w", w.dir, err)
		}
	}
	for _, d := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := unix.Mount(d, newRoot+d, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving %s: %w", d, err)
		}
	}
	return nil
}
