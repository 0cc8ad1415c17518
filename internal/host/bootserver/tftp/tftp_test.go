package tftp

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
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

// TestConversations are what firmware says, word for word, and what it hears.
func TestConversations(t *testing.T) {
	at, done := serving(t, map[string][]byte{"config.txt": []byte("arm_64bit=1\n"), "two": noise(1024), "empty": nil}, 0)
	t.Run("a file that fits a block", func(t *testing.T) {
		c := newClient(t, at)
		c.send(rrq("config.txt", "tsize", "0", "blksize", "1468"))
		c.expect("\x00\x06tsize\x0012\x00blksize\x001468\x00")
		c.send(ack(0))
		c.expect("\x00\x03\x00\x01arm_64bit=1\n")
		c.send(ack(1))
		if got := <-done; got.Err != nil || got.Sent != 12 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("a ROM that asks for nothing", func(t *testing.T) {
		c := newClient(t, at)
		c.send(rrq("two"))
		for block := uint16(1); block <= 2; block++ {
			if got := c.hears(hang); len(got) != 516 {
				t.Fatalf("%d bytes", len(got))
			}
			c.send(ack(block))
		}
		c.expect("\x00\x03\x00\x03") // that a file ends with a whole block is said by an empty one
		c.send(ack(3))
		<-done
	})
	t.Run("an empty file", func(t *testing.T) {
		c := newClient(t, at)
		c.send(rrq("empty", "tsize", "0"))
		c.expect("\x00\x06tsize\x000\x00")
		c.send(ack(0))
		c.expect("\x00\x03\x00\x01")
		c.send(ack(1))
		<-done
	})
	t.Run("a look whether it is there", func(t *testing.T) {
		c := newClient(t, at)
		c.send(rrq("two", "tsize", "0", "blksize", "1024"))
		c.expect("\x00\x06tsize\x001024\x00blksize\x001024\x00")
		c.send("\x00\x05\x00\x00Early terminate\x00")
		if got := <-done; got.Err != nil || got.Aborted != "0 Early terminate" {
			t.Errorf("%+v", got)
		}
	})
	t.Run("a file that is not there", func(t *testing.T) {
		c := newClient(t, at)
		c.send(rrq("recovery.elf", "tsize", "0"))
		c.expect("\x00\x05\x00\x01there is no such file\x00")
		<-done
	})
	t.Run("an ACK that came twice", func(t *testing.T) {
		// A Sorcerer's Apprentice sends a block twice for it, every time; a slow
		// machine makes the server send one again sometimes.
		for range 5 {
			c := newClient(t, at)
			c.send(rrq("two", "blksize", "512"))
			c.expect("\x00\x06blksize\x00512\x00")
			c.send(ack(0))
			c.send(ack(0))
			for block := uint16(1); block <= 3; block++ {
				if got := c.hears(hang); !strings.HasPrefix(got, "\x00\x03"+ack(block)[2:]) {
					t.Fatalf("%.4q, not block %d", got, block)
				}
				c.send(ack(block))
				if block < 3 {
					c.send(ack(block))
				}
			}
			if got := <-done; got.Again == 0 {
				return
			}
		}
		t.Error("something was sent twice each time")
	})
	t.Run("an answer that was lost", func(t *testing.T) {
		c := newClient(t, at)
		c.send(rrq("config.txt", "tsize", "0"))
		for _, twice := range []string{"\x00\x06tsize\x0012\x00", "\x00\x03\x00\x01arm_64bit=1\n"} {
			c.expect(twice)
			c.last = ""
			c.expect(twice)
			c.send(ack(0))
		}
		c.send(ack(1))
		if got := <-done; got.Err != nil || got.Again < 2 {
			t.Errorf("%+v", got)
		}
	})
	for name, say := range map[string]struct {
		says string
		want *Error // which is cut to the length of what was said
	}{
		"somebody who wants to write": {"\x00\x02a-long-name-of-a-file\x00octet\x00", &Error{CodeDenied, "nothing is written here"}},
		"netascii":                    {"\x00\x01a-long-name-of-a-file\x00netascii\x00", &Error{CodeIllegal, "only octet is served"}},
		"no end":                      {"\x00\x01x\x00octet", &Error{CodeIllegal, "a re"}},
		"a block of nothing":          {rrq("two", "blksize", "0"), &Error{CodeOptions, "blksize: want a n"}},
		"a huge request":              {rrq(strings.Repeat("x", 600)), &Error{CodeIllegal, "a request of 609 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, at)
			c.send(say.says)
			c.expect(string(say.want.encode()))
		})
	}
	t.Run("errors are not answered", func(t *testing.T) {
		c := newClient(t, at)
		c.send("\x00\x05\x00\x00x\x00")
		if got := c.hears(200 * time.Millisecond); got != "" {
			t.Errorf("%q", got)
		}
	})
}

// TestRollover: behind block 65535 comes 0.
func TestRollover(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes long")
	}
	want := noise(8*(1<<16+100) + 3)
	at, done := serving(t, map[string][]byte{"big": want}, 0)
	c := newClient(t, at)
	c.send(rrq("big", "blksize", "8"))
	c.expect("\x00\x06blksize\x008\x00")
	c.send(ack(0))
	var got []byte
	for {
		b := c.hears(hang)
		if len(b) < 4 {
			t.Fatalf("%q after %d bytes", b, len(got))
		}
		block := binary.BigEndian.Uint16([]byte(b[2:4]))
		c.send(ack(block))
		if block != uint16(len(got)/8+1) {
			continue // sent again, where this machine was slow
		}
		if got = append(got, b[4:]...); len(b) < 12 {
			break
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came, of %d", len(got), len(want))
	}
	<-done
}

// TestTransferLimit: what is over the bound is told so at once; nothing waits.
func TestTransferLimit(t *testing.T) {
	at, _ := serving(t, map[string][]byte{"f": noise(2000)}, 2)
	for range 2 {
		c := newClient(t, at)
		c.send(rrq("f", "tsize", "0"))
		c.expect("\x00\x06tsize\x002000\x00")
	}
	c := newClient(t, at)
	c.send(rrq("f", "tsize", "0"))
	c.expect("\x00\x05\x00\x00too many tran\x00")

	// Nor are all of them one machine's.
	at, _ = serving(t, map[string][]byte{"f": noise(2000)}, 0)
	for range maxOfClient {
		c := newClient(t, at)
		c.send(rrq("f", "tsize", "0"))
		c.expect("\x00\x06tsize\x002000\x00")
	}
	c = newClient(t, at)
	c.send(rrq("f", "tsize", "0"))
	c.expect("\x00\x05\x00\x00too many tran\x00")
}

// TestRequestTwice: a request that was sent again because the answer was late
// is one transfer.
func TestRequestTwice(t *testing.T) {
	at, done := serving(t, map[string][]byte{"f": []byte("x")}, 0)
	c := newClient(t, at)
	c.send(rrq("f", "tsize", "0"))
	c.send(rrq("f", "tsize", "0"))
	c.expect("\x00\x06tsize\x001\x00")
	c.send(ack(0))
	c.expect("\x00\x03\x00\x01x")
	c.send(ack(1))
	<-done
	select {
	case x := <-done:
		t.Errorf("a second one: %+v", x)
	case <-time.After(100 * time.Millisecond):
	}
}

// TestStockClients: the clients people have.
func TestStockClients(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs curl and tftp")
	}
	want := noise(1<<20 + 17)
	at, _ := serving(t, map[string][]byte{"dir/file": want}, 0)
	dir := t.TempDir()
	for name, args := range map[string][]string{
		"curl":                   {"curl", "-sS", "-o", "got", fmt.Sprintf("tftp://127.0.0.1:%d/dir/file", at.Port)},
		"curl with large blocks": {"curl", "-sS", "--tftp-blksize", "1428", "-o", "got", fmt.Sprintf("tftp://127.0.0.1:%d/dir/file", at.Port)},
		"tftp":                   {"tftp", "-m", "binary", "127.0.0.1", fmt.Sprint(at.Port), "-c", "get", "dir/file", "got"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			got, err := os.ReadFile(filepath.Join(dir, "got"))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes came, of %d (%v)", len(got), len(want), err)
			}
			os.Remove(filepath.Join(dir, "got"))
		})
	}
}

// TestMany: a hundred at once, each with a packet in fifty lost each way.
func TestMany(t *testing.T) {
	want := noise(100_000)
	at, done := serving(t, map[string][]byte{"f": want}, 0)
	var all sync.WaitGroup
	for i := range 100 {
		all.Add(1)
		go func() {
			defer all.Done()
			r := rand.New(rand.NewPCG(7, uint64(i)))
			if got, err := lossy(net.IPv4(127, 0, 1, byte(i/10)), at, "f", r); err != nil || !bytes.Equal(got, want) {
				t.Errorf("client %d: %d bytes, %v", i, len(got), err)
			}
		}()
	}
	all.Wait()
	again := 0
	for range 100 {
		select {
		case x := <-done:
			again += x.Again
		case <-time.After(hang):
			t.Fatal("some transfers do not end")
		}
	}
	if again == 0 {
		t.Error("nothing was sent again, so nothing was lost")
	}
}

// lossy fetches a file as a client does that loses packets, and never says
// twice what it has said: it leaves sending again to the server.
func lossy(from net.IP, at *net.UDPAddr, name string, r *rand.Rand) ([]byte, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: from})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.WriteToUDP([]byte(rrq(name, "tsize", "0", "blksize", "1468")), at); err != nil {
		return nil, err
	}
	lost := func() bool { return r.IntN(50) == 0 }
	var got []byte
	buf := make([]byte, 2000)
	for want := uint16(1); ; {
		conn.SetReadDeadline(time.Now().Add(hang))
		n, from, err := conn.ReadFromUDP(buf)
		if err != nil {
			return got, err
		}
		if lost() {
			continue
		}
		switch op, block := binary.BigEndian.Uint16(buf), binary.BigEndian.Uint16(buf[2:]); {
		case op == opOAck && !lost():
			conn.WriteToUDP([]byte(ack(0)), from)
		case op == opData && block != want && !lost():
			conn.WriteToUDP([]byte(ack(block)), from)
		case op != opError && (op != opData || block != want): // the answer was lost
		case op == opData:
			got = append(got, buf[4:n]...)
			want++
			last := n < 4+1468
			if last || !lost() {
				conn.WriteToUDP([]byte(ack(block)), from)
			}
			if last {
				return got, nil
			}
		default:
			return got, errors.New(string(buf[4:n]))
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(rrq("config.txt", "tsize", "0", "blksize", "1468")))
	f.Add([]byte("\x00\x01x\x00octet\x00blksize"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, bad := parseRequest(b)
		if bad == nil && (r.block < minBlock || r.block > ethernet) {
			t.Fatalf("blocks of %d bytes", r.block)
		}
		if bad != nil && len(bad.encode()) > 1000 {
			t.Fatalf("an error of %d bytes", len(bad.encode()))
		}
		parseAck(b)
	})
}

// BenchmarkTransfer is one client, without loss, at the block size of today's
// EEPROMs.
func BenchmarkTransfer(b *testing.B) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	data := noise(32 << 20)
	s := &Server{Now: time.Now, Open: func(netip.Addr, string) (File, int64, error) {
		return memory{bytes.NewReader(data)}, int64(len(data)), nil
	}}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go s.Serve(ctx, conn)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			b.Fatal(err)
		}
		c.WriteToUDP([]byte(rrq("f", "tsize", "0", "blksize", "1468")), conn.LocalAddr().(*net.UDPAddr))
		buf, out := make([]byte, 2000), []byte{0, opAck, 0, 0}
		for got := 0; got < len(data); {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				b.Fatal(err)
			}
			if buf[1] == opData {
				got += n - 4
				copy(out[2:], buf[2:4])
			}
			c.WriteToUDPAddrPort(out, from)
		}
		c.Close()
	}
}
