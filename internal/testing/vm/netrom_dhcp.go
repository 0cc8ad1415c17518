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
	"time"
)

// Address does the first part of a boot alone: what the boot ROM of a Pi 3, or the
// EEPROM of another, does to get an address, which it returns and gives up again.
// listens is called when the machine hears the network and has not asked yet; it
// may be nil.
func (r NetROM) Address(ctx context.Context, listens func()) (net.IP, error) {
	b := &netBoot{NetROM: r, listens: listens}
	err := InNamespace(r.Namespace, func() error {
		defer b.address(ctx, "flush", "")
		return b.dhcp(ctx, r.Model == "3" || r.Model == "3+")
	})
	if err != nil {
		return nil, fmt.Errorf("Pi %s %08x: %w", r.Model, r.Serial, err)
	}
	return b.ip, nil
}

// identity is option 97 (docs/platform.md 3.2).
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

// parseOffer reads an answer to xid; ok is false for anything else. The answer is
// for mac, or for any machine where mac is nil.
func parseOffer(b []byte, xid uint32, mac net.HardwareAddr) (o offer, ok bool) {
	if len(b) < 241 || b[0] != 2 || binary.BigEndian.Uint32(b[4:]) != xid || mac != nil && !bytes.Equal(b[28:34], mac) {
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

// boots reports whether an answer is from a boot server, and which: option 43
// holds the text, 60 is PXEClient, and the address is siaddr, else 66, else 54
// (docs/platform.md 3.3). The ROM of the 3B wants the three blanks too.
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
func (b *netBoot) dhcp(ctx context.Context, rom bool) error {
	conn, err := dhcpSocket(b.Device)
	if err != nil {
		return err
	}
	defer conn.close()
	if b.listens != nil {
		b.listens()
	}
	xid, again, tries, checked := rand.Uint32(), romDHCPAgain, int(romDHCPTimeout/romDHCPAgain), b.MAC
	if rom {
		xid, again, tries = 0x26f30339, rom3Again, rom3Tries
	}
	if rom && b.Model == "3" {
		checked = nil // it takes others' offers too (raspberrypi/firmware#1067, #1303)
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
		if err := b.exchange(ctx, conn, b.message(1, xid, rom), xid, checked, again, take); err != nil {
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
			if err := b.exchange(ctx, conn, b.message(3, xid, rom, more...), xid, checked, again, func(o offer) bool {
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
	return b.address(ctx, "add", fmt.Sprintf("%v/%d", b.ip, ones))
}

// exchange sends a message and hands on what answers it, until take has enough
// or time is up. Answers are for the hardware address checked, or for any
// machine where that is nil.
func (b *netBoot) exchange(ctx context.Context, conn *dhcpConn, out []byte, xid uint32, checked net.HardwareAddr,
	wait time.Duration, take func(offer) bool) error {
	if !b.lost() {
		if err := conn.send(out); err != nil {
			return err
		}
	}
	buf, deadline := make([]byte, 2048), time.Now().Add(wait)
	for ctx.Err() == nil {
		m, err := conn.read(buf, deadline)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		if o, ok := parseOffer(m, xid, checked); ok && !b.lost() && take(o) {
			return nil
		}
	}
	return ctx.Err()
}
