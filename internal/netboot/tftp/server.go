package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// File is something to send. It is closed when the transfer ends.
type File interface {
	io.ReaderAt
	io.Closer
}

// Transfer is one that ended.
type Transfer struct {
	Client  netip.Addr
	Name    string
	Size    int64 // of the file, bytes
	Sent    int64 // bytes the client has acknowledged
	Again   int   // packets that were sent more than once
	Took    time.Duration
	Aborted string // what the client said, where it wanted no more: it knows the size now
	Err     error  // nil where the client has all of it, or aborted
}

// Server answers read requests.
type Server struct {
	// Open returns a file, and its size in bytes. An *Error is sent as it is,
	// any other as "not found", at once: a Pi waits half a minute for silence.
	Open func(client netip.Addr, name string) (File, int64, error)
	// Done is told of transfers that ended; may be nil.
	Done func(Transfer)
	// Max bounds transfers at a time; one more is refused. 0 stands for 256.
	Max int
	// Now is the clock.
	Now func() time.Time
}

// How long an answer is waited for before a packet is sent again: at first, and
// between which bounds what is measured counts. RFC 6298 has the arithmetic;
// its bound of 1 s is for the Internet, a Pi's cable is shorter.
const (
	firstWait = 500 * time.Millisecond
	minWait   = 20 * time.Millisecond
	maxWait   = 4 * time.Second
	tries     = 8 // of one packet: 20 s at least, a Pi's own patience for a file is 30 s
)

// Serve answers until ctx ends. Each transfer has a port of its own, on the
// address that was asked.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	limit := s.Max
	if limit == 0 {
		limit = 256
	}
	slots := make(chan struct{}, limit)
	var running sync.Map // of clients' ports that have a transfer: a request that came twice is one
	var all sync.WaitGroup
	defer all.Wait()
	buf := make([]byte, 64<<10)
	for {
		n, client, err := conn.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			continue // an ICMP error of an earlier answer
		}
		client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
		r, bad := parseRequest(buf[:n])
		if bad != nil {
			if n >= 2 && binary.BigEndian.Uint16(buf) != opError { // errors are not answered
				conn.WriteToUDPAddrPort(bad.encode(), client)
			}
			continue
		}
		if _, twice := running.LoadOrStore(client, true); twice {
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			running.Delete(client)
			conn.WriteToUDPAddrPort((&Error{CodeOther, "too many transfers"}).encode(), client)
			continue
		}
		all.Add(1)
		local, _ := conn.LocalAddr().(*net.UDPAddr)
		go func() {
			defer all.Done()
			defer func() { running.Delete(client); <-slots }()
			s.transfer(ctx, local.IP, client, r)
		}()
	}
}

// transfer sends one file.
func (s *Server) transfer(ctx context.Context, local net.IP, client netip.AddrPort, r request) {
	conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: local}, net.UDPAddrFromAddrPort(client))
	if err != nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	file, size, err := s.Open(client.Addr(), r.name)
	t := Transfer{Client: client.Addr(), Name: r.name, Size: size}
	start := s.Now()
	if err != nil {
		var own *Error
		if !errors.As(err, &own) {
			own = &Error{CodeNotFound, "there is no such file"}
		}
		conn.Write(own.encode())
		t.Err = err
	} else {
		f := &flight{conn: conn, now: s.Now, wait: firstWait, t: &t, in: make([]byte, 1500)}
		t.Err = f.send(ctx, file, r)
		var aborted *Error
		if errors.As(t.Err, &aborted) {
			t.Aborted, t.Err = fmt.Sprintf("%d %s", aborted.Code, aborted.Message), nil
		}
		file.Close()
	}
	t.Took = s.Now().Sub(start)
	if s.Done != nil {
		s.Done(t)
	}
}

// flight is a transfer under way.
type flight struct {
	conn      *net.UDPConn
	now       func() time.Time
	t         *Transfer
	in        []byte
	wait      time.Duration
	srtt, dev time.Duration // smoothed round trip, and how far it varies
}

// send sends the OACK, and then block after block.
func (f *flight) send(ctx context.Context, file File, r request) error {
	if r.options {
		if err := f.until(ctx, r.oack(f.t.Size), 0); err != nil {
			return err
		}
	}
	// The first block is number 1, and after 65535 comes 0 (FACTS 3.5).
	out := make([]byte, 4+r.block)
	out[1] = opData
	for block, at := uint16(1), int64(0); ; block, at = block+1, at+int64(r.block) {
		n, err := file.ReadAt(out[4:], at)
		if err != nil && !errors.Is(err, io.EOF) {
			f.conn.Write((&Error{CodeOther, "the file can't be read"}).encode())
			return fmt.Errorf("reading at byte %d: %w", at, err)
		}
		binary.BigEndian.PutUint16(out[2:], block)
		if err := f.until(ctx, out[:4+n], block); err != nil {
			return err
		}
		f.t.Sent = at + int64(n)
		if n < r.block {
			return nil
		}
	}
}

// until sends a packet until it is acknowledged. What acknowledges an earlier
// one is passed over, and not answered: to answer it would send every block
// twice from there on (RFC 1123 4.2.3.1).
func (f *flight) until(ctx context.Context, out []byte, block uint16) error {
	for try := 1; ; try++ {
		sent := f.now()
		if _, err := f.conn.Write(out); err != nil {
			return fmt.Errorf("sending: %w", err)
		}
		if try > 1 {
			f.t.Again++
		}
		err := f.acknowledged(ctx, sent, block)
		if err == nil {
			if try == 1 { // of one that was sent twice nobody knows which was answered (Karn)
				f.measured(f.now().Sub(sent))
			}
			return nil
		}
		var quiet net.Error
		if ctx.Err() != nil || !errors.As(err, &quiet) || !quiet.Timeout() {
			return err
		}
		if try == tries {
			return fmt.Errorf("no answer to block %d, which was sent %d times", block, tries)
		}
		f.wait = min(2*f.wait, maxWait)
	}
}

func (f *flight) acknowledged(ctx context.Context, sent time.Time, block uint16) error {
	if err := f.conn.SetReadDeadline(sent.Add(f.wait)); err != nil {
		return err
	}
	if ctx.Err() != nil { // which had set an earlier one
		return ctx.Err()
	}
	for {
		n, err := f.conn.Read(f.in)
		if err != nil {
			return err
		}
		got, aborted, err := parseAck(f.in[:n])
		switch {
		case err != nil: // noise
		case aborted != nil:
			return aborted
		case got == block:
			return nil
		}
	}
}

// measured learns from one round trip how long to wait for the next (RFC 6298
// 2).
func (f *flight) measured(r time.Duration) {
	if f.srtt == 0 {
		f.srtt, f.dev = r, r/2
	} else {
		f.dev += ((f.srtt - r).Abs() - f.dev) / 4
		f.srtt += (r - f.srtt) / 8
	}
	f.wait = min(max(f.srtt+4*f.dev, minWait), maxWait)
}
