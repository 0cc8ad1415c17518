package vm

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNamespace does something in a network namespace: on a thread that is thrown
// away afterwards. What it starts and opens stays there.
func inNamespace(name string, do func() error) error {
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

// dhcpSocket opens the socket of a DHCP client.
func dhcpSocket(device string) (net.PacketConn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "dhcp")
	defer f.Close() // FilePacketConn has its own
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.BindToDevice(fd, device),
		unix.Bind(fd, &unix.SockaddrInet4{Port: 68}),
	); err != nil {
		return nil, err
	}
	return net.FilePacketConn(f)
}
