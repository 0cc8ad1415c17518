package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// hostileMAC is the hardware address of a machine that speaks for others. It
// imitates none: what it sends comes from its own.
var hostileMAC = net.HardwareAddr{2, 0, 0, 0, 0x66, 0x66}

// hostile plugs in a machine that speaks for each of the serials, over and over,
// until the test ends: it asks for an address as that Pi, for its files and its
// config, and reports that its release is not well.
func (l *lan) hostile(build, ip string, serials ...uint32) {
	l.t.Helper()
	name, err := l.Join(hostileMAC)
	if err != nil {
		l.t.Fatal(err)
	}
	l.in(name, "ip", "addr", "add", ip+"/24", "dev", "eth0")
	var dhcp net.PacketConn
	err = vm.InNamespace(name, func() (err error) {
		dhcp, err = server4.NewIPv4UDPConn("eth0", &net.UDPAddr{Port: dhcpv4.ClientPort})
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		defer dhcp.Close()
		for i := 0; ctx.Err() == nil; i++ {
			serial := serials[i%len(serials)]
			b := discover(0) // a Pi 4's, whose serial is the last but the end mark
			copy(b[28:34], hostileMAC)
			binary.LittleEndian.PutUint32(b[len(b)-5:], serial)
			dhcp.WriteTo(b, &net.UDPAddr{IP: net.IPv4bcast, Port: 67})
			vm.InNamespace(name, func() error {
				speakFor(serial, build)
				return nil
			})
			time.Sleep(20 * time.Millisecond)
		}
	})
	l.t.Cleanup(func() {
		stop()
		done.Wait()
	})
}

// speakFor sends, from the namespace that it runs in, what a Pi with a serial
// sends while it boots. Whether anything is answered does not matter.
func speakFor(serial uint32, build string) {
	for _, file := range []string{"config.txt", "vmlinuz", "initramfs", "x"} {
		if c, err := net.Dial("udp4", vm.LANAddress+":69"); err == nil {
			fmt.Fprintf(c, "\x00\x01%08x/%s\x00octet\x00", serial, file)
			c.Close()
		}
	}
	m := bootapi.Machine{Serial: fmt.Sprintf("%016x", serial), MAC: hostileMAC.String(), Build: build}
	for method, kind := range map[string]bootapi.Kind{"GET": bootapi.Config, "POST": bootapi.Progress} {
		c, err := net.DialTimeout("tcp4", vm.LANAddress+":8069", time.Second)
		if err != nil {
			continue
		}
		body := ""
		if kind == bootapi.Progress {
			body = string(bootapi.Report{Stage: bootapi.Unhealthy}.Encode())
		}
		c.SetDeadline(time.Now().Add(time.Second))
		fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
			method, bootapi.Request{Kind: kind, Machine: m}.Encode(), len(body), body)
		io.Copy(io.Discard, c)
		c.Close()
	}
}

// untouched checks that a hostile machine got no node's config, and that no
// release counts as unhealthy for what that machine reported.
func (s *server) untouched(t *testing.T) {
	t.Helper()
	for _, line := range strings.Split(s.output(), "\n") {
		if strings.Contains(line, "sent a node config") && strings.Contains(line, "mac="+hostileMAC.String()) {
			t.Errorf("the hostile machine had a config: %s", line)
		}
	}
	records, err := filepath.Glob(filepath.Join(s.state, "health", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range records {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "bad:") {
			t.Errorf("a release is held to be unhealthy: %s: %s", name, b)
		}
	}
}
