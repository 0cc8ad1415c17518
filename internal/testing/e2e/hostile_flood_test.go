package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// discover is a DHCPDISCOVER as number i of a crowd sends it: a Pi with a serial,
// a boot ROM without, a PC; or an invalid one: options that run over the end, a
// message that is cut, and the largest that Ethernet carries.
func discover(i uint32) []byte {
	b := make([]byte, 240, 1472)
	b[0], b[1], b[2] = 1, 1, 6
	binary.BigEndian.PutUint32(b[4:], i)
	b[28], b[29] = 2, 1
	binary.BigEndian.PutUint32(b[30:], i)
	copy(b[236:], "\x63\x82\x53\x63")
	b = append(b, 53, 1, 1)
	const class = "PXEClient:Arch:00000:UNDI:002001"
	b = append(append(b, 60, byte(len(class))), class...)
	switch i % 6 {
	case 0:
		b = append(b, "\x61\x11\x00RPi4\x14\x31\xc0\x00\x00\x00\x00\x00"...)
		b = binary.LittleEndian.AppendUint32(b, i)
	case 1:
		b = append(b, "\x61\x11\x00"+strings.Repeat("D", 16)...)
	case 2:
		return append(b, "\x61\xff\x00RPi4"...)
	case 3:
		return b[:i%uint32(len(b))]
	case 4:
		return append(b, bytes.Repeat([]byte{0x37, 0xff}, (1472-len(b))/2)...)
	}
	return append(b, 255)
}

// flood sends ten thousand of them a second until ctx ends, and returns how many
// they were.
func (l *lan) flood(ctx context.Context, in string) func() uint32 {
	l.t.Helper()
	var sent atomic.Uint32
	var conn net.PacketConn
	err := vm.InNamespace(in, func() (err error) {
		conn, err = server4.NewIPv4UDPConn("eth0", &net.UDPAddr{Port: dhcpv4.ClientPort})
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	go func() {
		defer conn.Close()
		for start := time.Now(); ctx.Err() == nil; time.Sleep(time.Millisecond) {
			for want := uint32(time.Since(start).Seconds() * 10_000); sent.Load() < want; sent.Add(1) {
				conn.WriteTo(discover(sent.Load()), &net.UDPAddr{IP: net.IPv4bcast, Port: 67})
			}
		}
	}()
	return sent.Load
}

// hold opens connections to the server from a namespace and keeps them until the
// test ends: 500 that request a file over HTTP and read nothing, and 500 that ask
// for files over TFTP, some with invalid packets, and acknowledge nothing.
func (l *lan) hold(from, path string) {
	l.t.Helper()
	packets := []string{
		"\x00\x0100000004/vmlinuz\x00octet\x00", "\x00\x0100000004/../../../etc/passwd\x00octet\x00",
		"\x00\x01" + strings.Repeat("x", 1400), "\x00\x03",
	}
	var held []net.Conn
	l.t.Cleanup(func() {
		for _, c := range held {
			c.Close()
		}
	})
	err := vm.InNamespace(from, func() error {
		for range 500 {
			// The server hangs up soon.
			if web, err := net.DialTimeout("tcp4", "10.77.0.1:8069", time.Second); err == nil {
				fmt.Fprintf(web, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
				held = append(held, web)
			}
			files, err := net.Dial("udp4", "10.77.0.1:69")
			if err != nil {
				return err
			}
			for _, packet := range packets {
				files.Write([]byte(packet))
			}
			held = append(held, files)
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// TestNetbootUnderFlood: one machine in the network asks for addresses ten thousand
// times a second, each time as another machine, and sends invalid messages; another
// holds connections open. The server's memory is bounded, and Pis of the oldest and
// the newest model boot.
func TestNetbootUnderFlood(t *testing.T) {
	r := variant(t, servedBoards[0], servedBoards[1])
	l := newLAN(t)
	s := l.serve(r.Artifact.Dir, `nodes:
- {serial: '00000003', mac: 'd8:3a:dd:00:00:03'}
- {serial: '00000004', mac: 'd8:3a:dd:00:00:04'}
- {serial: '00000005', mac: 'd8:3a:dd:00:00:05'}
`, "--pool", "10.77.0.50-10.77.0.200")
	l.hostile(r.Manifest.BuildID, "10.77.0.68", 3, 4, 5)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	bad := l.joins()
	l.in(bad, "ip", "addr", "add", "10.77.0.66/24", "dev", "eth0")
	sent := l.flood(ctx, l.joins())
	root, _ := r.Manifest.File(image.RootFile)
	machine := bootapi.Machine{Serial: "00000004", MAC: "d8:3a:dd:00:00:04", Build: r.Manifest.BuildID}
	ask := bootapi.Request{Kind: bootapi.Blob, Digest: root.Digest, Machine: machine}
	l.hold(bad, ask.Encode())
	for _, model := range []string{"3", "5"} {
		serial, _ := strconv.Atoi(model)
		rom, _ := l.pi(model, uint32(serial))
		got, err := rom.Boot(ctx)
		if err != nil || len(got.Kernel) == 0 {
			t.Errorf("Pi %s: %v", model, err)
		}
	}
	// Its /init has the root, from an address of its own.
	good := l.joins()
	l.in(good, "ip", "addr", "add", "10.77.0.67/24", "dev", "eth0")
	out, err := l.Command(good, "curl", "-sSf", "--speed-limit", "1", "--speed-time", "60", "-o", "/dev/null",
		"-w", "%{size_download}", "http://10.77.0.1:8069"+ask.Encode()).Output()
	if err != nil || string(out) != fmt.Sprint(root.Size) {
		t.Errorf("curl fetched %s bytes of the root, want %d (%v)", out, root.Size, err)
	}
	s.untouched(t)
	n := sent()
	t.Logf("%d messages were sent beside it", n)
	if n < 10_000 {
		t.Error("that is no flood")
	}
	if peak := s.peak(); peak > 150 {
		t.Errorf("the server had %d MiB", peak)
	} else {
		t.Logf("the server had %d MiB at most", peak)
	}
	if lines := strings.Count(s.output(), "\n"); lines > 5000 {
		t.Errorf("it said %d lines", lines)
	}
}
