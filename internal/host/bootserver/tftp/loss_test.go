package tftp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// TestManyLossyTransfers: a hundred at once, each with a packet in fifty lost each way.
func TestManyLossyTransfers(t *testing.T) {
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
