package vm

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// arguments writes what the firmware hands over into files and returns QEMU's
// command line.
func (m *Machine) arguments(ctx context.Context, mach machine, s *Handover) ([]string, error) {
	file := func(name string) string { return filepath.Join(m.dir, name) }
	args := []string{"-M", mach.name, "-accel", mach.accel, "-display", "none", "-no-reboot", "-nodefaults"}
	if mach.cpu != "" {
		args = append(args, "-cpu", mach.cpu)
	}
	if m.o.Memory != 0 && mach.memory != 0 {
		mach.memory = m.o.Memory
	}
	if m.o.Cores != 0 && mach.cores != 0 {
		mach.cores = m.o.Cores
	}
	if mach.memory != 0 {
		args = append(args, "-m", fmt.Sprint(mach.memory))
	}
	if mach.cores != 0 {
		args = append(args, "-smp", fmt.Sprint(mach.cores))
	}
	network, mac, err := m.o.network()
	if err != nil {
		return nil, err
	}
	drive := "file=" + m.image + ",format=raw,cache=unsafe"
	switch {
	case mach.name == raspi3b.name:
		if err := growToPowerOfTwo(m.image); err != nil {
			return nil, err
		}
		args = append(args, "-drive", "if=sd,"+drive, "-netdev", network, "-device", "usb-net,netdev=net"+mac,
			"-chardev", "stdio,id=con,mux=on,signal=off", "-serial", "null", "-serial", "chardev:con", "-mon", "chardev=con,mode=readline")
	case m.o.Net != nil: // no card
	case m.o.Card:
		args = append(args, "-device", "sdhci-pci", "-drive", "if=none,id=card,"+drive, "-device", "sd-card,drive=card")
		if err := growToPowerOfTwo(m.image); err != nil {
			return nil, err
		}
	case m.o.Writes != "":
		log := fmt.Sprintf("%s.%d", m.o.Writes, m.Boots()+1)
		if err := os.WriteFile(log, nil, 0o600); err != nil {
			return nil, err
		}
		args = append(args, "-blockdev", "driver=file,node-name=image,filename="+m.image+",cache.no-flush=on",
			"-blockdev", "driver=file,node-name=log,filename="+log+",cache.no-flush=on",
			"-blockdev", "driver=blklogwrites,node-name=card,file=image,log=log,log-sector-size=512,log-super-update-interval=64",
			"-device", "virtio-blk-pci,drive=card")
	default:
		args = append(args, "-drive", "if=none,id=card,"+drive, "-device", "virtio-blk-pci,drive=card")
	}
	if mach.name == virt.name {
		args = append(args, "-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile="+mac, "-device", "i6300esb",
			"-action", "watchdog=reset", "-device", "virtio-rng-pci",
			"-chardev", "stdio,id=con,mux=on,signal=off", "-serial", "chardev:con", "-mon", "chardev=con,mode=readline")
	}
	if m.o.Clock != "" {
		args = append(args, "-rtc", "base="+m.o.Clock)
	}
	if m.o.Second != "" {
		args = append(args, "-drive", "if=none,id=second,format=raw,cache=unsafe,file="+m.o.Second, "-device", "virtio-blk-pci,drive=second")
	}
	dtb := s.DTB
	if mach.ownDTB {
		if dtb, err = mach.deviceTree(ctx, file("qemu.dtb")); err != nil {
			return nil, err
		}
	}
	dtb, err = describe(dtb, s, m.o.Serial, m.o.KASLR)
	if err != nil {
		return nil, err
	}
	for name, b := range map[string][]byte{"kernel": s.Kernel, "initramfs": s.Initramfs, "dtb": dtb} {
		if err := os.WriteFile(file(name), b, 0o600); err != nil {
			return nil, err
		}
	}
	return append(args, "-kernel", file("kernel"), "-initrd", file("initramfs"), "-dtb", file("dtb"),
		"-append", mach.commandLine(s.Cmdline)), nil
}

// growToPowerOfTwo makes a card as large as QEMU's SD cards must be. Real
// cards are larger than images too.
func growToPowerOfTwo(name string) error {
	st, err := os.Stat(name)
	if err != nil {
		return err
	}
	size := int64(1)
	for size < st.Size() {
		size <<= 1
	}
	return os.Truncate(name, size)
}

// network returns QEMU's options of the network, and of the device on it: its
// hardware address, "" where QEMU's own will do. In a network with others each
// needs one of its own.
func (o Options) network() (network, mac string, err error) {
	network = "user,id=net"
	if o.Tap != "" {
		network = "tap,id=net,script=no,downscript=no,ifname=" + o.Tap
	}
	switch {
	case o.Net != nil:
		mac = ",mac=" + o.Net.MAC.String()
	case o.Tap != "":
		low, err := hex.DecodeString(o.Serial[max(0, len(o.Serial)-6):])
		if err != nil || len(low) != 3 {
			return "", "", fmt.Errorf("serial %q: want at least six hexadecimal digits at its end, of which the hardware address is made", o.Serial)
		}
		mac = fmt.Sprintf(",mac=52:54:00:%02x:%02x:%02x", low[0], low[1], low[2])
	}
	for here, there := range o.Forward {
		network += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:%d", here, there)
	}
	return network, mac, nil
}

// deviceTree returns the device tree that QEMU makes for its own machine; dump
// is a file to have it written to.
func (m machine) deviceTree(ctx context.Context, dump string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, qemu, "-M", m.name+",dtb-randomness=off,dumpdtb="+dump, "-cpu", m.cpu,
		"-m", fmt.Sprint(m.memory), "-smp", fmt.Sprint(m.cores), "-display", "none", "-nodefaults").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("asking QEMU for its device tree: %w\n%s", err, out)
	}
	return os.ReadFile(dump)
}
