package vm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

// NetROM is a model of what a Pi without a card does between power-on and the
// kernel: DHCP and TFTP as its boot ROM, bootcode.bin or EEPROM speak them
// (FACTS 3.2 to 3.5), odd ways included. Its packets are written down here from
// those facts, not by what the server reads them with.
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

// Times of the firmware (FACTS 3.3, 3.4).
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
	ctx    context.Context
	ip     net.IP
	server net.IP
	prefix string
	board  Firmware

	slowest time.Duration // of the files
}

// errNoFile is a TFTP error 1.
var errNoFile = errors.New("file not found")

// Boot does all of it and returns what the kernel gets.
func (r NetROM) Boot(ctx context.Context) (*Handover, error) {
	b := &netBoot{NetROM: r, ctx: ctx}
	var s *Handover
	err := InNamespace(r.Namespace, func() (err error) {
		s, err = b.boot()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("Pi %s %08x: %w", r.Model, r.Serial, err)
	}
	s.SlowestFile = b.slowest
	return s, nil
}

func (b *netBoot) boot() (*Handover, error) {
	defer b.address("flush", "")
	// probe decides whether names have the prefix; absent is what is asked for
	// without a hope.
	var probe string
	var absent, before, between []string
	switch b.Model {
	case "3", "3+":
		b.board = Firmware{Filters: []string{"pi3"}, DTB: "bcm2710-rpi-3-b.dtb", LineLimit: 98}
		probe, absent = "start.elf", []string{"dt-blob.bin", "recovery.elf", "armstub8-32.bin", "armstub8.bin"}
		before, between = []string{"config.txt", "fixup.dat", "start.elf"}, []string{"config.txt"}
		if err := b.dhcp(true); err != nil {
			return nil, err
		}
		if _, err := b.get("bootcode.bin", 0); err != nil {
			return nil, err
		}
		if _, err := b.get("bootsig.bin", 0); err == nil {
			return nil, errors.New("there is a bootsig.bin")
		}
		b.address("flush", "")
	case "4":
		b.board = Firmware{Filters: []string{"pi4"}, DTB: "bcm2711-rpi-4-b.dtb", LineLimit: 98}
		probe, absent = "start4.elf", []string{"pieeprom.sig", "pieeprom.upd", "recover4.elf", "armstub8-gic.bin", "dt-blob.bin"}
		before, between = []string{"config.txt", "start4.elf", "fixup4.dat"}, []string{"config.txt", "config.txt"}
	case "5":
		b.board = Firmware{Filters: []string{"pi5"}, DTB: "bcm2712-rpi-5-b.dtb", LineLimit: 98}
		probe, absent = "config.txt", []string{"pieeprom.sig", "pieeprom.upd"}
	default:
		return nil, fmt.Errorf("there is no model %q", b.Model)
	}
	if err := b.dhcp(false); err != nil {
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
		if _, err := b.get(name, b.block()); !errors.Is(err, errNoFile) {
			return nil, fmt.Errorf("%s, which must not be there: %v", name, err)
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
		return nil, fmt.Errorf("%s has %d bytes", name, len(got))
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
func (b *netBoot) address(verb, cidr string) error {
	args := []string{"-4", "addr", verb, "dev", b.Device}
	if cidr != "" {
		args = []string{"-4", "addr", verb, cidr, "dev", b.Device}
	}
	if out, err := exec.CommandContext(b.ctx, "ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// lost says whether a packet is.
func (b *netBoot) lost() bool { return b.Rand != nil && b.Rand.Float64() < b.Loss }

// identity is option 97 (FACTS 3.2).
func (b *netBoot) identity(rom bool) []byte {
	id := []byte{0}
	switch {
	case b.Model == "3" && rom:
		return append(id, bytes.Repeat([]byte{0x44}, 16)...)
	case b.Model == "3" || b.Model == "3+":
		for range 4 {
			id = binary.LittleEndian.AppendUint32(id, b.Serial)
		}
		return id
	}
	revision := map[string]uint32{"4": 0xc03114, "5": 0xc04170}[b.Model]
	id = append(id, "RPi"+b.Model...)
	id = binary.LittleEndian.AppendUint32(id, revision)
	id = append(id, b.MAC[2:]...)
	return binary.LittleEndian.AppendUint32(id, b.Serial)
}

// message writes a BOOTREQUEST down, octet by octet.
func (b *netBoot) message(kind byte, xid uint32, rom bool, more ...byte) []byte {
	m := make([]byte, 236)
	m[0], m[1], m[2] = 1, 1, 6
	binary.BigEndian.PutUint32(m[4:], xid)
	copy(m[28:], b.MAC)
	m = append(m, 0x63, 0x82, 0x53, 0x63)
	m = append(m, 53, 1, kind)
	list := []byte{43, 60, 67, 128, 129, 130, 131, 132, 133, 134, 135, 66}
	if !rom {
		list = append([]byte{1, 3}, list...)
	}
	m = append(append(m, 55, byte(len(list))), list...)
	class := "PXEClient:Arch:00000:UNDI:002001"
	m = append(append(m, 60, byte(len(class))), class...)
	m = append(m, 93, 2, 0, 0, 94, 3, 1, 2, 1)
	id := b.identity(rom)
	m = append(append(m, 97, byte(len(id))), id...)
	m = append(m, more...)
	m = append(m, 255)
	return append(m, make([]byte, max(0, 300-len(m)))...)
}

// offer is what a Pi reads of an answer.
type offer struct {
	kind    byte
	ip      net.IP
	next    net.IP
	options map[byte][]byte
}

func parseOffer(b []byte, xid uint32, mac net.HardwareAddr) (o offer, ok bool) {
	if len(b) < 241 || b[0] != 2 || binary.BigEndian.Uint32(b[4:]) != xid || !bytes.Equal(b[28:34], mac) {
		return o, false
	}
	b = bytes.Clone(b) // the next packet goes where this one is
	o = offer{ip: net.IP(b[16:20]), next: net.IP(b[20:24]), options: map[byte][]byte{}}
	for rest := b[240:]; len(rest) > 0 && rest[0] != 255; {
		if rest[0] == 0 {
			rest = rest[1:]
			continue
		}
		if len(rest) < 2 || len(rest) < 2+int(rest[1]) {
			return o, false
		}
		o.options[rest[0]] = rest[2 : 2+rest[1]]
		rest = rest[2+rest[1]:]
	}
	if v := o.options[53]; len(v) == 1 {
		o.kind = v[0]
	}
	return o, true
}

// boots says whether an answer is from a boot server, and which: option 43
// holds the text, 60 is PXEClient, and the address is siaddr, else 66, else 54
// (FACTS 3.3). The ROM of the 3B wants the three blanks too.
func (b *netBoot) boots(o offer, rom bool) net.IP {
	text := "Raspberry Pi Boot"
	if rom && b.Model == "3" {
		text += "   "
	}
	if !bytes.Contains(o.options[43], []byte(text)) || string(o.options[60]) != "PXEClient" {
		return nil
	}
	if !o.next.Equal(net.IPv4zero) {
		return o.next
	}
	if ip := net.ParseIP(string(o.options[66])); ip != nil {
		return ip
	}
	if id := o.options[54]; len(id) == 4 {
		return net.IP(id)
	}
	return nil
}

// dhcp gets an address and a server. rom is the Pi 3's, which takes an offer
// and sends no request.
func (b *netBoot) dhcp(rom bool) error {
	conn, err := dhcpSocket(b.Device)
	if err != nil {
		return err
	}
	defer conn.close()
	xid, again, tries := rand.Uint32(), romDHCPAgain, int(romDHCPTimeout/romDHCPAgain)
	if rom {
		xid, again, tries = 0x26f30339, rom3Again, rom3Tries
	}
	var lease offer
	b.ip, b.server = nil, nil
	take := func(o offer) bool {
		if o.kind != 2 {
			return false
		}
		if s := b.boots(o, rom); s != nil {
			b.server = s
		}
		if !o.ip.Equal(net.IPv4zero) {
			lease = o
			b.ip = o.ip
		}
		return b.ip != nil && b.server != nil
	}
	for range tries {
		if err := b.exchange(conn, b.message(1, xid, rom), xid, again, take); err != nil {
			return err
		}
		if b.ip != nil && b.server != nil {
			break
		}
	}
	if b.ip == nil || b.server == nil {
		return fmt.Errorf("no boot server: address %v, server %v after %d tries", b.ip, b.server, tries)
	}
	if !rom {
		id := lease.options[54]
		more := append([]byte{50, 4}, b.ip.To4()...)
		more = append(append(more, 54, byte(len(id))), id...)
		given := false
		for range tries {
			if err := b.exchange(conn, b.message(3, xid, rom, more...), xid, again, func(o offer) bool {
				given = given || o.kind == 5 && o.ip.Equal(b.ip)
				return given
			}); err != nil {
				return err
			}
			if given {
				break
			}
		}
		if !given {
			return fmt.Errorf("%v was offered and not given", b.ip)
		}
	}
	mask := net.IPMask(lease.options[1])
	ones, _ := mask.Size()
	return b.address("add", fmt.Sprintf("%v/%d", b.ip, ones))
}

// exchange sends a message and hands on what answers it, until take has enough
// or time is up.
func (b *netBoot) exchange(conn *dhcpConn, out []byte, xid uint32, wait time.Duration, take func(offer) bool) error {
	if !b.lost() {
		if err := conn.send(out); err != nil {
			return err
		}
	}
	buf, deadline := make([]byte, 2048), time.Now().Add(wait)
	for b.ctx.Err() == nil {
		m, err := conn.read(buf, deadline)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		if o, ok := parseOffer(m, xid, b.MAC); ok && !b.lost() && take(o) {
			return nil
		}
	}
	return b.ctx.Err()
}

// exists opens a file, reads how large it is, and ends the transfer there, as
// firmware does to find out (FACTS 3.5).
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
	to := &net.UDPAddr{IP: b.server, Port: 69}
	send := func() error {
		if b.lost() {
			return nil
		}
		_, err := conn.WriteTo(out, to)
		return err
	}
	if err := send(); err != nil {
		return nil, err
	}
	var got []byte
	size, want, length := -1, uint16(1), 512
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
			return nil, fmt.Errorf("nothing came for %v, after %d bytes of %d", romFileTimeout, len(got), size)
		case errors.As(err, &late) && late.Timeout():
			if err := send(); err != nil {
				return nil, err
			}
			continue
		case err != nil:
			return nil, err
		}
		if n < 4 || b.lost() || to.Port != 69 && from.Port != to.Port {
			continue
		}
		switch op := binary.BigEndian.Uint16(buf); {
		case op == 5 && binary.BigEndian.Uint16(buf[2:]) == 1:
			return nil, errNoFile
		case op == 5:
			return nil, fmt.Errorf("the server says: %s", buf[4:n-1])
		case op == 6 && size < 0:
			words := strings.Split(string(buf[2:n]), "\x00")
			for i := 0; i+1 < len(words); i += 2 {
				switch words[i] {
				case "tsize":
					fmt.Sscan(words[i+1], &size)
				case "blksize":
					fmt.Sscan(words[i+1], &length)
				}
			}
			if size < 0 || length > block {
				return nil, fmt.Errorf("an OACK with size %d, blocks of %d", size, length)
			}
			to = from
			if probe {
				_, err := conn.WriteTo(append([]byte{0, 5, 0, 0}, "Early terminate\x00"...), to)
				return nil, err
			}
			out = []byte{0, 4, 0, 0}
		case op == 3 && block != 0 && size < 0:
			return nil, errors.New("no OACK: config.txt would be ignored (firmware #1012)")
		case op == 3 && binary.BigEndian.Uint16(buf[2:]) == want:
			to = from
			got, deadline = append(got, buf[4:n]...), time.Now().Add(romFileTimeout)
			out = []byte{0, 4, byte(want >> 8), byte(want)}
			want++
			if n-4 < length {
				if err := send(); err != nil {
					return nil, err
				}
				if size >= 0 && len(got) != size {
					return nil, fmt.Errorf("%d bytes came, %d were announced", len(got), size)
				}
				return got, nil
			}
		}
		// What came twice is acknowledged again too.
		if err := send(); err != nil {
			return nil, err
		}
	}
}
