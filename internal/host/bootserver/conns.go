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

// Limits of connections. A node has one, and a second one for a request beside a
// download; a browser has six.
var (
	planeConns = conns{all: 1024, ofClient: 8} // a few hundred nodes at once
	adminConns = conns{all: 64, ofClient: 16}
)

// The lowest rate at which a client may receive: 35 kB/s, on a cable that
// carries 10 MB/s.
const (
	slowPart = 1 << 20 // bytes that must be received
	slowTime = 30 * time.Second
)

// bounded wraps a listener so that it closes connections beyond the limits.
// Connections from this machine are counted separately, so that other machines
// cannot lock out a user at its keyboard.
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
		tcp.SetLinger(0) // leave no socket in TIME_WAIT
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

// boundedConn is a connection whose client must receive each part in time.
// net/http sends files with ReadFrom, which uses sendfile.
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
