package tftp

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"
)

// memory is a file in memory.
type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// serving starts a server of some files, and returns where it answers and what
// it says of transfers.
func serving(t *testing.T, files map[string][]byte, most int) (*net.UDPAddr, chan Transfer) {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan Transfer, 1000)
	s := &Server{Now: time.Now, Shares: []int{cmp.Or(most, maxAtOnce)}, Done: func(x Transfer) { done <- x },
		Open: func(_ netip.Addr, name string) (File, int64, error) {
			b, ok := files[name]
			if !ok {
				return nil, 0, fs.ErrNotExist
			}
			return memory{bytes.NewReader(b)}, int64(len(b)), nil
		}}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx, conn) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return conn.LocalAddr().(*net.UDPAddr), done
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// hang is longer than anything takes on a busy machine: what waits so long
// never ends.
const hang = 10 * time.Minute

// client is as much of one as a test wants to do by hand.
type client struct {
	t    *testing.T
	conn *net.UDPConn
	to   *net.UDPAddr
	last string // heard; hearing it again is what a slow machine makes of it
}

func newClient(t *testing.T, to *net.UDPAddr) *client {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t: t, conn: conn, to: to}
}

func (c *client) send(b string) {
	c.t.Helper()
	if _, err := c.conn.WriteToUDP([]byte(b), c.to); err != nil {
		c.t.Fatal(err)
	}
}

// hears returns the next packet, or "" where none comes within a while; the
// rest of a transfer goes to where it came from.
func (c *client) hears(within time.Duration) string {
	c.t.Helper()
	b := make([]byte, 70000)
	c.conn.SetReadDeadline(time.Now().Add(within))
	for {
		n, from, err := c.conn.ReadFromUDP(b)
		if err != nil {
			return ""
		}
		if c.to = from; string(b[:n]) != c.last {
			c.last = string(b[:n])
			return c.last
		}
	}
}

func (c *client) expect(want string) {
	c.t.Helper()
	if got := c.hears(hang); got != want {
		c.t.Fatalf("it said %q, want %q", got, want)
	}
}

func rrq(name string, options ...string) string {
	s := "\x00\x01" + name + "\x00octet\x00"
	for _, o := range options {
		s += o + "\x00"
	}
	return s
}

func ack(n uint16) string { return string(binary.BigEndian.AppendUint16([]byte{0, opAck}, n)) }
