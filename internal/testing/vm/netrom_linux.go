package vm

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/insomniacslk/dhcp/dhcpv4/server4"
)

// InNamespace does something in a network namespace: on a thread that is thrown
// away afterwards. What it starts and opens stays there.
func InNamespace(name string, do func() error) error {
	if name == "" {
		return do()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- func() error {
			f, err := os.Open("/run/netns/" + name)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("entering the network namespace %s: %w", name, err)
			}
			return do()
		}()
	}()
	return <-done
}

// dhcpConn is a DHCP client that has no address yet. Servers may send to the one
// they offer: it is read from the frames (RFC 2131 4.1).
type dhcpConn struct {
	out net.PacketConn
	in  *os.File
}

// dhcpSocket opens the sockets of a DHCP client on a device.
func dhcpSocket(device string) (*dhcpConn, error) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	const ip = unix.ETH_P_IP<<8&0xff00 | unix.ETH_P_IP>>8 // in the order of the network
	out, err := server4.NewIPv4UDPConn(device, &net.UDPAddr{Port: 68})
	if err != nil {
		return nil, err
	}
	raw, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, ip)
	if err != nil {
		out.Close()
		return nil, err
	}
	c := &dhcpConn{out: out, in: os.NewFile(uintptr(raw), "frames")}
	if err := unix.Bind(raw, &unix.SockaddrLinklayer{Protocol: ip, Ifindex: i.Index}); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// read returns the next message to a DHCP client.
func (c *dhcpConn) read(b []byte, deadline time.Time) ([]byte, error) {
	if err := c.in.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	for {
		n, err := c.in.Read(b)
		if err != nil {
			return nil, err
		}
		// An IPv4 head says how long it is; UDP's has eight bytes, its target
		// port the third and fourth.
		p := b[:n]
		if len(p) < 28 || p[0]>>4 != 4 || p[9] != unix.IPPROTO_UDP {
			continue
		}
		if p = p[4*int(p[0]&15):]; len(p) >= 8 && p[2] == 0 && p[3] == 68 {
			return p[8:], nil
		}
	}
}

func (c *dhcpConn) send(b []byte) error {
	_, err := c.out.WriteTo(b, &net.UDPAddr{IP: net.IPv4bcast, Port: 67})
	return err
}

func (c *dhcpConn) close() {
	c.out.Close()
	c.in.Close()
}
