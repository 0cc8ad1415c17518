package vm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"strings"
	"time"
)

// NetROM is a model of what a Pi without a card does between power-on and the
// kernel: DHCP and TFTP as its boot ROM, bootcode.bin or EEPROM speak them
// (docs/platform.md 3.2 to 3.5), odd ways included. Its packets are written
// down here from those facts, not by what the server reads them with.
type NetROM struct {
	Model     string // 3, 3+, 4 or 5
	Serial    uint32
	MAC       net.HardwareAddr
	Namespace string // network namespace the machine is in; "" for this one
	Device    string // its Ethernet device there, whose address is MAC
	OldEEPROM bool   // of before October 2022: blocks of 1024 bytes
	MACPrefix bool   // TFTP_PREFIX=2: names begin with the address, not the serial

	Loss float64    // how many packets of a hundredth are lost each way, 0 to 1
	Rand *rand.Rand // which; nil where none is
}

// Times of the firmware (docs/platform.md 3.3, 3.4).
const (
	romDHCPTimeout = 45 * time.Second // for all of DHCP
	romDHCPAgain   = 4 * time.Second
	romFileTimeout = 30 * time.Second // for a file; here for each block: see transfer
	romAckAgain    = time.Second      // UNVERIFIED: how soon a lost block is asked for again
	rom3Tries      = 5                // of the Pi 3's ROM, 5 s apart
	rom3Again      = 5 * time.Second
)

// netBoot is one such boot under way.
type netBoot struct {
	NetROM
	ip     net.IP
	server net.IP
	prefix string
	board  Firmware

	slowest time.Duration // of the files
	listens func()        // called before it asks for an address; may be nil
}

// errNoFile is a TFTP error 1.
var errNoFile = errors.New("file not found")

// Boot does all of it and returns what the kernel gets.
func (r NetROM) Boot(ctx context.Context) (*Handover, error) {
	b := &netBoot{NetROM: r}
	var s *Handover
	err := InNamespace(r.Namespace, func() (err error) {
		s, err = b.boot(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("Pi %s %08x: %w", r.Model, r.Serial, err)
	}
	s.SlowestFile = b.slowest
	return s, nil
}

func (b *netBoot) boot(ctx context.Context) (*Handover, error) {
	defer b.address(ctx, "flush", "")
	// probe decides whether names have the prefix; absent are files that the firmware
	// asks for and that a boot server must not have.
	var probe string
	var absent, before, between []string
	switch b.Model {
	case "3", "3+":
		b.board = Firmware{Filters: []string{"pi3"}, DTB: "bcm2710-rpi-3-b.dtb", LineLimit: 98}
		probe, absent = "start.elf", []string{"dt-blob.bin", "recovery.elf", "armstub8-32.bin", "armstub8.bin"}
		before, between = []string{"config.txt", "fixup.dat", "start.elf"}, []string{"config.txt"}
		if err := b.dhcp(ctx, true); err != nil {
			return nil, err
		}
		if _, err := b.get("bootcode.bin", 0); err != nil {
			return nil, err
		}
		if _, err := b.get("bootsig.bin", 0); err == nil {
			return nil, errors.New("bootsig.bin is served and must not be")
		}
		b.address(ctx, "flush", "")
	case "4":
		b.board = Firmware{Filters: []string{"pi4"}, DTB: "bcm2711-rpi-4-b.dtb", LineLimit: 98}
		probe, absent = "start4.elf", []string{"pieeprom.sig", "pieeprom.upd", "recover4.elf", "armstub8-gic.bin", "dt-blob.bin"}
		before, between = []string{"config.txt", "start4.elf", "fixup4.dat"}, []string{"config.txt", "config.txt"}
	case "5":
		b.board = Firmware{Filters: []string{"pi5"}, DTB: "bcm2712-rpi-5-b.dtb", LineLimit: 98}
		probe, absent = "config.txt", []string{"pieeprom.sig", "pieeprom.upd"}
	default:
		return nil, fmt.Errorf("unknown model %q: want 3, 3+, 4 or 5", b.Model)
	}
	if err := b.dhcp(ctx, false); err != nil {
		return nil, err
	}
	b.prefix = fmt.Sprintf("%08x/", b.Serial)
	if b.MACPrefix {
		b.prefix = strings.ReplaceAll(b.MAC.String(), ":", "-") + "/"
	}
	switch err := b.exists(probe); {
	case errors.Is(err, errNoFile):
		b.prefix = ""
	case err != nil:
		return nil, err
	}
	for _, name := range before {
		if _, err := b.get(name, b.block()); err != nil {
			return nil, err
		}
	}
	for _, name := range absent {
		if _, err := b.get(name, b.block()); err == nil {
			return nil, fmt.Errorf("%s is served and must not be", name)
		} else if !errors.Is(err, errNoFile) {
			return nil, fmt.Errorf("asking for %s, which must not be served: %w", name, err)
		}
	}
	for _, name := range between {
		if _, err := b.get(name, b.block()); err != nil {
			return nil, err
		}
	}
	if _, err := b.get("overlays/overlay_map.dtb", b.block()); err != nil && !errors.Is(err, errNoFile) {
		return nil, err
	}
	return b.board.slot(b, "config.txt")
}

// read implements source.
func (b *netBoot) read(name string, limit int64) ([]byte, error) {
	got, err := b.get(name, b.block())
	if int64(len(got)) > limit {
		return nil, fmt.Errorf("%s has %d bytes, want at most %d", name, len(got), limit)
	}
	return got, err
}

func (b *netBoot) block() int {
	switch {
	case b.Model == "3" || b.Model == "3+" || b.OldEEPROM:
		return 1024
	}
	return 1468
}

// address sets or takes the address of the device, as the firmware's own stack
// has it.
func (b *netBoot) address(ctx context.Context, verb, cidr string) error {
	args := []string{"-4", "addr", verb, "dev", b.Device}
	if cidr != "" {
		args = []string{"-4", "addr", verb, cidr, "dev", b.Device}
	}
	if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// lost reports whether a packet is lost.
func (b *netBoot) lost() bool { return b.Rand != nil && b.Rand.Float64() < b.Loss }

// exists opens a file, reads how large it is, and ends the transfer there, as
// firmware does to find out (docs/platform.md 3.5).
func (b *netBoot) exists(name string) error {
	_, err := b.transfer(b.prefix+name, b.block(), true)
	return err
}

// get fetches a file. block 0 asks for no options, as the Pi 3's ROM.
func (b *netBoot) get(name string, block int) ([]byte, error) {
	got, err := b.transfer(b.prefix+name, block, false)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.prefix+name, err)
	}
	return got, nil
}

// transfer reads one file by TFTP with blocks of at most block bytes; 0 asks for
// no options, as the ROM does. With probe it ends once the size is known.
func (b *netBoot) transfer(name string, block int, probe bool) ([]byte, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: b.ip})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	out := append([]byte{0, 1}, name+"\x00octet\x00"...)
	if block != 0 {
		out = append(out, fmt.Sprintf("tsize\x000\x00blksize\x00%d\x00", block)...)
	}
	x := &romTransfer{
		probe: probe, block: block, out: out, to: &net.UDPAddr{IP: b.server, Port: 69},
		size: -1, want: 1, length: 512,
	}
	send := func() error {
		if b.lost() {
			return nil
		}
		_, err := conn.WriteTo(x.out, x.to)
		return err
	}
	if err := send(); err != nil {
		return nil, err
	}
	buf := make([]byte, 2048)
	// The firmware gives all of a file so long. How much of it comes in that
	// time says how busy this machine is, so the model gives up when nothing
	// new came for as long, and whoever measures has SlowestFile.
	begun := time.Now()
	defer func() { b.slowest = max(b.slowest, time.Since(begun)) }()
	for deadline := begun.Add(romFileTimeout); ; {
		if err := conn.SetReadDeadline(time.Now().Add(romAckAgain)); err != nil {
			return nil, err
		}
		n, from, err := conn.ReadFromUDP(buf)
		var late net.Error
		switch {
		case time.Now().After(deadline):
			return nil, fmt.Errorf("timed out after %v without data: got %d bytes of %d", romFileTimeout, len(x.got), x.size)
		case errors.As(err, &late) && late.Timeout():
			if err := send(); err != nil {
				return nil, err
			}
			continue
		case err != nil:
			return nil, err
		}
		if n < 4 || b.lost() || x.to.Port != 69 && from.Port != x.to.Port {
			continue
		}
		before := len(x.got)
		if err := x.take(buf[:n], from); err != nil {
			return nil, err
		}
		if x.probed {
			_, err := conn.WriteTo(append([]byte{0, 5, 0, 0}, "Early terminate\x00"...), x.to)
			return nil, err
		}
		if x.complete || len(x.got) != before {
			deadline = time.Now().Add(romFileTimeout)
		}
		// What came twice is acknowledged again too.
		if err := send(); err != nil {
			return nil, err
		}
		if x.complete {
			return x.finish()
		}
	}
}

// romTransfer is one file on its way over TFTP.
type romTransfer struct {
	probe bool // only the size is wanted
	block int  // the largest block that was asked for, bytes; 0 for no options

	out    []byte // the packet that is sent next, or again
	to     *net.UDPAddr
	got    []byte
	size   int    // by the OACK, bytes; -1 before one came
	length int    // of a block, bytes
	want   uint16 // the next block

	probed, complete bool
}

// take takes one packet of the server.
func (x *romTransfer) take(packet []byte, from *net.UDPAddr) error {
	switch op := binary.BigEndian.Uint16(packet); {
	case op == 5 && binary.BigEndian.Uint16(packet[2:]) == 1:
		return errNoFile
	case op == 5:
		return fmt.Errorf("the server answered with an error: %s", packet[4:len(packet)-1])
	case op == 6 && x.size < 0:
		words := strings.Split(string(packet[2:]), "\x00")
		for i := 0; i+1 < len(words); i += 2 {
			switch words[i] {
			case "tsize":
				fmt.Sscan(words[i+1], &x.size)
			case "blksize":
				fmt.Sscan(words[i+1], &x.length)
			}
		}
		if x.size < 0 || x.length > x.block {
			return fmt.Errorf("invalid OACK: size %d, blocks of %d", x.size, x.length)
		}
		x.to, x.out, x.probed = from, []byte{0, 4, 0, 0}, x.probe
	case op == 3 && x.block != 0 && x.size < 0:
		return errors.New("no OACK: config.txt would be ignored (https://github.com/raspberrypi/firmware/issues/1012)")
	case op == 3 && binary.BigEndian.Uint16(packet[2:]) == x.want:
		x.to, x.got = from, append(x.got, packet[4:]...)
		x.out = []byte{0, 4, byte(x.want >> 8), byte(x.want)}
		x.want++
		x.complete = len(packet)-4 < x.length
	}
	return nil
}

// finish returns the file once its last block is there.
func (x *romTransfer) finish() ([]byte, error) {
	if x.size >= 0 && len(x.got) != x.size {
		return nil, fmt.Errorf("got %d bytes, want the announced %d", len(x.got), x.size)
	}
	return x.got, nil
}
