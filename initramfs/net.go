package initramfs

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// findServer brings a wired device up, gets an address, and finds the boot
// server. It looks until it has one.
func (b *boot) findServer() error {
	return patiently("a boot server", func() error {
		devices := wired()
		if len(devices) == 0 {
			return errors.New("there is no Ethernet device yet; is its driver in the image's kernel?")
		}
		var reasons []string
		for _, d := range devices {
			n, err := b.tryDevice(d)
			if err == nil {
				b.net = n
				say("%s has %s, the boot server is %s", n.device, n.addr.IP, n.server)
				return nil
			}
			reasons = append(reasons, d+": "+err.Error())
		}
		return errors.New(strings.Join(reasons, "; "))
	})
}

// carrierWait is how long a cable may take to be seen: gigabit Ethernet
// negotiates for three seconds.
const carrierWait = 6 * time.Second

func (b *boot) tryDevice(device string) (*network, error) {
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		carrier, err := up(device)
		if err != nil {
			return nil, err
		}
		if carrier {
			break
		}
		if time.Since(start) > carrierWait {
			return nil, errors.New("no cable, or nothing at its other end")
		}
	}
	n, err := ask(device)
	if err != nil {
		return nil, err
	}
	return n, n.use()
}

// request is what this node asks the boot server.
func (b *boot) request(k bootapi.Kind) bootapi.Request {
	return bootapi.Request{Kind: k, Machine: bootapi.Machine{Serial: b.net.serial, MAC: b.net.mac, Build: b.info.BuildID}}
}

// serialNumber returns the board's serial, as the firmware gives it.
func serialNumber() string {
	t, err := os.ReadFile("/proc/device-tree/serial-number")
	if err != nil {
		return "0"
	}
	return strings.ToLower(strings.TrimRight(string(t), "\x00\n"))
}

// report posts how far this node is. A server that refuses that loses nothing
// else.
func (b *boot) report(r bootapi.Report) {
	if b.net == nil {
		return
	}
	r.Release = b.info.Release
	if a, err := call(b.net.server, b.request(bootapi.Progress), 0, r.Encode()); err == nil {
		a.Close()
	}
}

// checkServed checks the chain of a boot without a card: from a key of this
// image to its manifest, and what the kernel was told. What the firmware
// fetched it has checked as little as any firmware does; the root comes next.
func (b *boot) checkServed() error {
	var signature, text []byte
	err := patiently("the image's manifest", func() (err error) {
		if signature, err = small(b.net.server, b.request(bootapi.Signature), image.MaxSignature); err != nil {
			return err
		}
		text, err = small(b.net.server, b.request(bootapi.Manifest), image.MaxManifest)
		return err
	})
	if err != nil {
		return err
	}
	if err := b.verify(signature, text); err != nil {
		return err
	}
	if err := b.checkServedWords(); err != nil {
		return err
	}
	b.report(bootapi.Report{Stage: bootapi.Verified})
	return b.takeServed()
}

// checkServedWords fetches the signed kernel command line of a boot without a
// card, and compares it with what the kernel was told.
func (b *boot) checkServedWords() error {
	f, ok := b.img.File(slots.Net.CmdlineFile())
	if !ok {
		return fmt.Errorf("the signed manifest has no %s", slots.Net.CmdlineFile())
	}
	q := b.request(bootapi.Blob)
	q.Digest = f.Digest
	var words []byte
	if err := patiently("the kernel command line", func() (err error) {
		words, err = small(b.net.server, q, f.Size)
		return err
	}); err != nil {
		return err
	}
	if got := image.DigestOf(words); got != f.Digest {
		return fmt.Errorf("%s changed: digest mismatch: got %s, want %s", f.Name, got, f.Digest)
	}
	return b.checkWords(words)
}

// takeServed asks for this node's config. The server gives it away once on
// each boot, so it is asked for before what takes long. Not to have one is no
// failure: an inventory in the image may do.
func (b *boot) takeServed() error {
	var text []byte
	err := patiently("the node config", func() (err error) {
		text, err = small(b.net.server, b.request(bootapi.Config), 1<<20)
		return err
	})
	var no *refusedError
	if errors.As(err, &no) && no.status == 404 {
		say("the boot server has no config for this node")
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(node.ServedFile, text, 0o600)
}

// servedDir holds the root of a boot without a card, in memory.
const servedDir = "/run/pikelet/root"

// fetchRoot fetches the root, compressed as it is, and makes a block device of
// it, which it returns as major:minor.
func (b *boot) fetchRoot() (string, error) {
	f, ok := b.img.File(image.RootFile)
	if !ok {
		return "", fmt.Errorf("the signed manifest has no %s", image.RootFile)
	}
	if err := enough(f.Size); err != nil {
		return "", err
	}
	if err := os.MkdirAll(servedDir, 0o700); err != nil {
		return "", err
	}
	options := fmt.Sprintf("mode=0700,size=%d", f.Size+1<<20)
	if err := unix.Mount("tmpfs", servedDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return "", fmt.Errorf("mounting memory for the root: %w", err)
	}
	file, err := os.OpenFile(servedDir+"/"+image.RootFile, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer file.Close()
	b.report(bootapi.Report{Stage: bootapi.Fetching})
	start := time.Now()
	if err := b.fetch(f, file); err != nil {
		return "", err
	}
	say("the root came: %.1f MB in %.1f s", float64(f.Size)/1e6, time.Since(start).Seconds())
	device, err := loop(file)
	if err != nil {
		return "", err
	}
	// The loop device keeps the file, so its name and the mount can go.
	return device, errors.Join(os.Remove(file.Name()), unix.Unmount(servedDir, unix.MNT_DETACH))
}

// fetch downloads a file of the image, and checks that it is what was signed.
func (b *boot) fetch(f image.File, to io.Writer) error {
	q := b.request(bootapi.Blob)
	q.Digest = f.Digest
	sum := sha256.New()
	var at int64
	if err := patiently(f.Name, func() (err error) {
		at, err = download(b.net.server, q, at, f.Size, io.MultiWriter(to, sum))
		return err
	}); err != nil {
		return err
	}
	if got := image.DigestOfSum(sum.Sum(nil)); got != f.Digest {
		return fmt.Errorf("%s changed on its way: digest mismatch: got %s, want %s", f.Name, got, f.Digest)
	}
	return nil
}

// spare is what a node needs in memory beside its root to start, in bytes.
const spare = 128 << 20

// enough reports whether the root fits into memory.
func enough(size int64) error {
	var s unix.Sysinfo_t
	if err := unix.Sysinfo(&s); err != nil {
		return err
	}
	if all := int64(s.Totalram) * int64(s.Unit); all < size+spare {
		return fmt.Errorf("the root has %d MiB, and this machine %d MiB of memory: it needs %d MiB beside the root; start "+
			"it from a card", size>>20, all>>20, spare>>20)
	}
	return nil
}

// loop makes a read-only block device of a file, and returns its numbers.
func loop(file *os.File) (string, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return "", fmt.Errorf("finding a free loop device: %w", err)
	}
	name := fmt.Sprintf("/dev/loop%d", n)
	dev, err := os.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	defer dev.Close()
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), &unix.LoopConfig{
		Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY},
	}); err != nil {
		return "", fmt.Errorf("making %s of the root: %w", name, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
}
