package bootserver

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// conns bounds the connections to a listener.
type conns struct {
	all      int // at a time
	ofClient int // of one address
}

// Bounds of connections. A node has one, and a second one while it asks for
// something beside; a browser has six. Whoever opens more gets no further.
var (
	planeConns = conns{all: 1024, ofClient: 8} // a few hundred nodes at once
	adminConns = conns{all: 64, ofClient: 16}
)

// How slowly a client may take what it is sent: 35 kB/s, of a cable that does
// 10 MB/s.
const (
	slowPart = 1 << 20 // bytes that must be taken
	slowTime = 30 * time.Second
)

// bounded has a listener hang up on whoever has enough connections already.
// This machine's own count apart from all others, which therefore cannot lock
// out who sits at it.
func bounded(l net.Listener, now func() time.Time, most conns) *boundedListener {
	return &boundedListener{Listener: l, now: now, slow: slowTime, most: most, of: map[netip.Addr]int{}}
}

type boundedListener struct {
	net.Listener
	now  func() time.Time
	slow time.Duration
	most conns
	mu   sync.Mutex
	of   map[netip.Addr]int
	all  int // of other machines
}

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			c.Close()
			return nil, errors.New("want a TCP listener")
		}
		client := tcp.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if l.take(client) {
			return &boundedConn{TCPConn: tcp, now: l.now, slow: l.slow, end: sync.OnceFunc(func() { l.give(client) })}, nil
		}
		tcp.SetLinger(0) // nothing of it stays behind
		tcp.Close()
	}
}

func (l *boundedListener) take(client netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !client.IsLoopback() && l.all >= l.most.all || l.of[client] >= l.most.ofClient {
		return false
	}
	if !client.IsLoopback() {
		l.all++
	}
	l.of[client]++
	return true
}

func (l *boundedListener) give(client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !client.IsLoopback() {
		l.all--
	}
	if l.of[client]--; l.of[client] == 0 {
		delete(l.of, client)
	}
}

// boundedConn is a connection whose every part must be taken in time. net/http
// sends files by ReadFrom, which has the kernel do it.
type boundedConn struct {
	*net.TCPConn
	now  func() time.Time
	slow time.Duration
	end  func()
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	c.end()
	return c.TCPConn.Close()
}

// Write implements net.Conn.
func (c *boundedConn) Write(b []byte) (int, error) {
	done := 0
	for {
		if err := c.SetWriteDeadline(c.now().Add(c.slow)); err != nil {
			return done, err
		}
		n, err := c.TCPConn.Write(b[done:min(len(b), done+slowPart)])
		if done += n; err != nil || done == len(b) {
			return done, err
		}
	}
}

// ReadFrom implements io.ReaderFrom.
func (c *boundedConn) ReadFrom(r io.Reader) (int64, error) {
	limited, ok := r.(*io.LimitedReader)
	if !ok {
		limited = &io.LimitedReader{R: r, N: 1<<63 - 1}
	}
	var done int64
	for limited.N > 0 {
		if err := c.SetWriteDeadline(c.now().Add(c.slow)); err != nil {
			return done, err
		}
		part := &io.LimitedReader{R: limited.R, N: min(limited.N, slowPart)}
		n, err := c.TCPConn.ReadFrom(part)
		done += n
		limited.N -= n
		if err != nil || part.N > 0 { // the end of what there is to read
			return done, err
		}
	}
	return done, nil
}
