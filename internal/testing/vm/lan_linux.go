package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
)

// LAN is a network of its own on this computer, for root: a namespace with a
// bridge, which is where servers and QEMU are, and one more for the Ethernet of
// each Pi.
type LAN struct {
	Name   string // of the namespace
	Device string // of it, whose address is Address
	pis    int
	others []string
	time   net.PacketConn // what answers NTP, or nil
}

// LANAddress is this side's address in a LAN, whose network is 10.77.0.0/24.
const LANAddress = "10.77.0.1"

var lans atomic.Int32

// NewLAN makes a network.
func NewLAN() (*LAN, error) {
	l := &LAN{Name: fmt.Sprintf("pikelet-%d-%d", os.Getpid(), lans.Add(1)), Device: "br0"}
	err := errors.Join(l.Namespace(l.Name),
		l.In(l.Name, "ip", "link", "set", "lo", "up"),
		l.In(l.Name, "ip", "link", "add", l.Device, "type", "bridge"),
		l.In(l.Name, "ip", "addr", "add", LANAddress+"/24", "dev", l.Device),
		l.In(l.Name, "ip", "link", "set", l.Device, "up"))
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// ServeTime answers NTP at LANAddress until Close.
func (l *LAN) ServeTime() error {
	err := InNamespace(l.Name, func() (err error) {
		l.time, err = net.ListenPacket("udp", LANAddress+":123")
		return err
	})
	if err == nil {
		go AnswerTime(l.time, 0)
	}
	return err
}

// Close takes it all away.
func (l *LAN) Close() {
	if l.time != nil {
		l.time.Close()
	}
	for _, name := range l.others {
		exec.Command("ip", "netns", "del", name).Run()
	}
}

// Namespace makes one more namespace, which Close takes away.
func (l *LAN) Namespace(name string) error {
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		return fmt.Errorf("ip netns add: %w: %s", err, out)
	}
	l.others = append(l.others, name)
	return nil
}

// In runs a command in a namespace.
func (l *LAN) In(name string, command ...string) error {
	if out, err := l.Command(name, command...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, out)
	}
	return nil
}

// Command returns a command that runs in a namespace.
func (l *LAN) Command(name string, command ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", name}, command...)...)
}

// DialContext connects from within the network, as net.Dialer's does.
func (l *LAN) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = InNamespace(l.Name, func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Join plugs a machine in: a namespace of its own, whose eth0 has a hardware
// address, or the kernel's choice where mac is nil. It returns its name.
func (l *LAN) Join(mac net.HardwareAddr) (name string, err error) {
	l.pis++
	name, port := fmt.Sprintf("%s-%d", l.Name, l.pis), fmt.Sprintf("port%d", l.pis)
	err = errors.Join(l.Namespace(name),
		l.In(l.Name, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name),
		l.In(l.Name, "ip", "link", "set", port, "master", l.Device, "up"))
	if err == nil && mac != nil {
		err = l.In(name, "ip", "link", "set", "eth0", "address", mac.String())
	}
	return name, errors.Join(err, l.In(name, "ip", "link", "set", "eth0", "up"), l.In(name, "ip", "link", "set", "lo", "up"))
}

// Pi plugs a Pi in: what its firmware does there, and the tap that QEMU goes on
// with.
func (l *LAN) Pi(model string, serial uint32) (rom *NetROM, tap string, err error) {
	mac := net.HardwareAddr{0xd8, 0x3a, 0xdd, 0, byte(serial >> 8), byte(serial)}
	name, err := l.Join(mac)
	tap = fmt.Sprintf("tap%d", l.pis)
	err = errors.Join(err,
		l.In(l.Name, "ip", "tuntap", "add", tap, "mode", "tap"),
		l.In(l.Name, "ip", "link", "set", tap, "master", l.Device, "up"))
	return &NetROM{Model: model, Serial: serial, MAC: mac, Namespace: name, Device: "eth0"}, tap, err
}
