package initramfs

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
)

// network is how this machine reaches its boot server.
type network struct {
	device string
	mac    string // lower case, with colons
	serial string // of the board: asked while /proc is still here
	addr   net.IPNet
	server string // host:port of the boot plane
}

// wired returns the Ethernet devices, sorted: of type 1, with hardware behind
// them, and no radio, which needs a password first.
func wired() []string {
	all, _ := filepath.Glob("/sys/class/net/*")
	var list []string
	for _, dir := range all {
		kind, _ := os.ReadFile(dir + "/type")
		_, radio := os.Stat(dir + "/wireless")
		_, hardware := os.Stat(dir + "/device")
		if strings.TrimSpace(string(kind)) == "1" && radio != nil && hardware == nil {
			list = append(list, filepath.Base(dir))
		}
	}
	return list
}

// up switches a device on, and reports whether its cable leads anywhere yet.
func up(device string) (carrier bool, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(device)
	if err != nil {
		return false, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r); err != nil {
		return false, err
	}
	r.SetUint16(r.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r); err != nil {
		return false, fmt.Errorf("switching %s on: %w", device, err)
	}
	b, _ := os.ReadFile("/sys/class/net/" + device + "/carrier")
	return strings.TrimSpace(string(b)) == "1", nil
}

// dhcpWait is how long /init waits for answers to one DISCOVER or REQUEST.
const dhcpWait = 4 * time.Second

// errNoAnswer is returned for a network on which no server answered with an
// address or a boot server.
var errNoAnswer = errors.New("no DHCP server answered")

// ask has a device get an address and a boot server: from one that gives both,
// or from two.
func ask(device string) (*network, error) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	conn, err := server4.NewIPv4UDPConn(device, &net.UDPAddr{Port: dhcpv4.ClientPort})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	want := []dhcpv4.Modifier{
		dhcpv4.WithBroadcast(true), // there is no address yet that could be answered
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(bootapi.Class)),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionVendorSpecificInformation,
			dhcpv4.OptionClassIdentifier, dhcpv4.OptionTFTPServerName),
	}
	discover, err := dhcpv4.NewDiscovery(i.HardwareAddr, want...)
	if err != nil {
		return nil, err
	}
	var lease, server *dhcpv4.DHCPv4
	deadline := time.Now().Add(dhcpWait)
	err = exchange(conn, discover, deadline, func(m *dhcpv4.DHCPv4) bool {
		if m.MessageType() != dhcpv4.MessageTypeOffer {
			return false
		}
		if serverOf(m) != "" && server == nil {
			server = m
		}
		if !m.YourIPAddr.IsUnspecified() && lease == nil {
			lease = m
		}
		return lease != nil && server != nil
	})
	if err != nil {
		return nil, err
	}
	switch {
	case lease == nil && server == nil:
		return nil, errNoAnswer
	case lease == nil:
		return nil, fmt.Errorf("boot server %s gives no addresses, and no other server does", serverOf(server))
	}
	ack, err := accept(conn, lease, want)
	if err != nil {
		return nil, err
	}
	if server == nil {
		server = ack
	}
	n := &network{
		device: device,
		mac:    i.HardwareAddr.String(),
		serial: serialNumber(),
		addr:   net.IPNet{IP: ack.YourIPAddr.To4(), Mask: ack.SubnetMask()},
		server: serverOf(server),
	}
	if n.addr.Mask == nil {
		n.addr.Mask = n.addr.IP.DefaultMask()
	}
	if n.server == "" {
		return nil, fmt.Errorf("%s gave the address %s, but no server named a boot server: is pikelet serve running in this "+
			"network?", ack.ServerIdentifier(), n.addr.IP)
	}
	return n, nil
}

// accept requests the address of an offer, and returns the server's acknowledgement.
func accept(conn net.PacketConn, lease *dhcpv4.DHCPv4, want []dhcpv4.Modifier) (*dhcpv4.DHCPv4, error) {
	request, err := dhcpv4.NewRequestFromOffer(lease, want...)
	if err != nil {
		return nil, err
	}
	var ack *dhcpv4.DHCPv4
	deadline := time.Now().Add(dhcpWait)
	if err := exchange(conn, request, deadline, func(m *dhcpv4.DHCPv4) bool {
		switch m.MessageType() {
		case dhcpv4.MessageTypeNak:
			return true
		case dhcpv4.MessageTypeAck:
			ack = m
		}
		return ack != nil
	}); err != nil {
		return nil, err
	}
	if ack == nil {
		return nil, fmt.Errorf("%s offered %s, and then did not give it", lease.ServerIdentifier(), lease.YourIPAddr)
	}
	return ack, nil
}

// serverOf returns the boot plane that a message names, "" for none: siaddr, else
// option 66 where that is an address (docs/platform.md 3.3); at the port it
// says, else the usual one. Many DHCP servers name themselves as siaddr, so
// what counts is that the class is ours.
func serverOf(m *dhcpv4.DHCPv4) string {
	if m.ClassIdentifier() != bootapi.Class {
		return ""
	}
	ip := m.ServerIPAddr
	if ip == nil || ip.IsUnspecified() {
		if ip = net.ParseIP(m.TFTPServerName()); ip == nil {
			return ""
		}
	}
	port := uint16(bootapi.Port)
	if p, ok := bootapi.DecodePort(m.Options.Get(dhcpv4.OptionVendorSpecificInformation)); ok {
		port = p
	}
	return net.JoinHostPort(ip.String(), fmt.Sprint(port))
}

// exchange sends a message and hands take what answers it, until take has
// enough or the deadline.
func exchange(conn net.PacketConn, m *dhcpv4.DHCPv4, deadline time.Time, take func(*dhcpv4.DHCPv4) bool) error {
	if _, err := conn.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ServerPort}); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	if err := conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	for {
		n, _, err := conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		got, err := dhcpv4.FromBytes(buf[:n])
		if err != nil || got.OpCode != dhcpv4.OpcodeBootReply || got.TransactionID != m.TransactionID {
			continue
		}
		if take(got) {
			return nil
		}
	}
}

// use gives the device its address. A server behind a router is not reached.
func (n *network) use() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, set := range []struct {
		what uint
		ip   net.IP
	}{{unix.SIOCSIFADDR, n.addr.IP}, {unix.SIOCSIFNETMASK, net.IP(n.addr.Mask)}} {
		r, err := unix.NewIfreq(n.device)
		if err != nil {
			return err
		}
		if err := r.SetInet4Addr(set.ip.To4()); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, set.what, r); err != nil {
			return fmt.Errorf("giving %s the address %v: %w", n.device, n.addr.IP, err)
		}
	}
	return nil
}

// giveUp takes the address away again: what the node is to have in the end its
// own config says.
func (n *network) giveUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(n.device)
	if err != nil {
		return err
	}
	if err := r.SetInet4Addr(net.IPv4zero.To4()); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, r)
}
