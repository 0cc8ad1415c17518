package tftp

import (
	"context"
	"encoding/binary"
	"errors"
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
	limit := s.Max
	if limit == 0 {
		limit = 256
	}
	places := places{limit: limit, running: map[netip.AddrPort]bool{}, of: map[netip.Addr]int{}}
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
				conn.WriteToUDPAddrPort(bad.encode(), client)
			}
			continue
		}
		switch took, twice := places.take(client); {
		case twice:
			continue
		case !took:
			conn.WriteToUDPAddrPort((&Error{CodeOther, "too many transfers"}).encode(), client)
			continue
		}
		all.Go(func() {
			ended := make(chan struct{})
			s.begin(e, local, client, r, func() { close(ended) })
			<-ended
			places.give(client)
		})
	}
}

// maxOfClient is how many transfers one address may have: firmware has one, and
// one that it gave up without a word.
const maxOfClient = 16

// places are the transfers there may be.
type places struct {
	mu      sync.Mutex
	limit   int
	running map[netip.AddrPort]bool
	of      map[netip.Addr]int
}

// take takes a place for a client's port; twice says that it has one: a request
// that came twice is one.
func (p *places) take(client netip.AddrPort) (took, twice bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running[client] {
		return false, true
	}
	if len(p.running) >= p.limit || p.of[client.Addr()] >= maxOfClient {
		return false, false
	}
	p.running[client] = true
	p.of[client.Addr()]++
	return true, false
}

func (p *places) give(client netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.running, client)
	if p.of[client.Addr()]--; p.of[client.Addr()] == 0 {
		delete(p.of, client.Addr())
	}
}

// begin opens what is asked for and has the engine send it, or tells the client
// why not. It calls ended when all is over.
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
	if err := e.once(local, client, own.encode()); err != nil {
		f.t.Err = errors.Join(f.t.Err, err)
	}
	done()
}
