package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// File is a file to send. It is closed when the transfer ends.
type File interface {
	io.ReaderAt
	io.Closer
}

// Transfer describes a transfer that ended.
type Transfer struct {
	Client  netip.Addr
	Name    string
	Size    int64 // of the file, bytes
	Sent    int64 // bytes the client has acknowledged
	Again   int   // packets that were sent more than once
	Took    time.Duration
	Aborted string // the message of a client that aborted: it may have wanted only the size
	Err     error  // nil where the client has the whole file, or aborted
}

// Server answers read requests.
type Server struct {
	// Open returns a file, and its size in bytes. An *Error is sent as it is,
	// any other error as "not found", at once: without an answer a Pi waits for
	// half a minute.
	Open func(client netip.Addr, name string) (File, int64, error)
	// Done is called for each transfer that ended; may be nil.
	Done func(Transfer)
	// Shares are the limits of concurrent transfers in each share; more are
	// refused. Nil stands for a single share of 256.
	Shares []int
	// Share returns the share that a request counts to; nil stands for share
	// 0. It is called for one request at a time, before Open.
	Share func(client netip.Addr, name string) int
	// Now is the clock.
	Now func() time.Time
}

// Serve answers until ctx ends. Each transfer has a port of its own, on the
// address that was asked. It runs on Linux.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn) error {
	e, err := newEngine(s.Now)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	places := newPlaces(s.Shares)
	var all sync.WaitGroup
	all.Go(func() { e.run(ctx) })
	defer all.Wait()
	defer end()
	local := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
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
				refuse(conn, client, bad, n)
			}
			continue
		}
		switch took, twice := places.take(client, func() int { return s.share(client.Addr(), r.name) }); {
		case twice:
			continue
		case !took:
			refuse(conn, client, &Error{CodeOther, "too many transfers"}, n)
			continue
		}
		r.length = n
		all.Go(func() {
			ended := make(chan struct{})
			s.begin(e, local, client, r, func() { close(ended) })
			<-ended
			places.give(client)
		})
	}
}

// refuse answers a request with an error packet that is no longer than the request,
// so that a request with a forged sender is not amplified.
func refuse(conn *net.UDPConn, client netip.AddrPort, e *Error, length int) {
	if b := e.fit(length); b != nil {
		conn.WriteToUDPAddrPort(b, client)
	}
}

func (s *Server) share(client netip.Addr, name string) int {
	if s.Share == nil {
		return 0
	}
	return s.Share(client, name)
}

// maxOfClient is how many transfers one address may have: firmware has one, and
// one that it abandoned without an abort.
const maxOfClient = 16

// maxAtOnce is the size of the share where there is only one.
const maxAtOnce = 256

// places tracks the concurrent transfers.
type places struct {
	mu      sync.Mutex
	free    []int                  // in each share
	running map[netip.AddrPort]int // the share of each
	of      map[netip.Addr]int
}

func newPlaces(shares []int) *places {
	if shares == nil {
		shares = []int{maxAtOnce}
	}
	return &places{free: slices.Clone(shares), running: map[netip.AddrPort]int{}, of: map[netip.Addr]int{}}
}

// take reserves a place for a client's port; twice reports that the port has one
// already, because its request was duplicated. share is called only where a place
// may be free.
func (p *places) take(client netip.AddrPort, share func() int) (took, twice bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, twice = p.running[client]; twice || p.of[client.Addr()] >= maxOfClient {
		return false, twice
	}
	in := share()
	if p.free[in] == 0 {
		return false, false
	}
	p.free[in]--
	p.running[client] = in
	p.of[client.Addr()]++
	return true, false
}

func (p *places) give(client netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free[p.running[client]]++
	delete(p.running, client)
	if p.of[client.Addr()]--; p.of[client.Addr()] == 0 {
		delete(p.of, client.Addr())
	}
}

// begin opens the requested file and starts its transfer, or answers with an
// error. It calls ended when the transfer is over.
func (s *Server) begin(e *engine, local netip.Addr, client netip.AddrPort, r request, ended func()) {
	file, size, err := s.Open(client.Addr(), r.name)
	f := &flight{t: Transfer{Client: client.Addr(), Name: r.name, Size: size}, start: s.Now()}
	done := func() {
		f.t.Took = s.Now().Sub(f.start)
		if s.Done != nil {
			s.Done(f.t)
		}
		ended()
	}
	if err == nil {
		f.open(file, r)
		if err = f.t.Err; err != nil {
			file.Close()
		}
	}
	if err == nil {
		e.add(local, client, f, func() {
			file.Close()
			done()
		})
		return
	}
	var own *Error
	if !errors.As(err, &own) {
		own = &Error{CodeNotFound, "there is no such file"}
	}
	f.t.Err = err
	if out := own.fit(r.length); out != nil {
		if err := e.once(local, client, out); err != nil {
			f.t.Err = errors.Join(f.t.Err, err)
		}
	}
	done()
}
