package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// engine runs all transfers on one thread, which polls all of their sockets. TFTP
// acknowledges every block, so that a goroutine for each transfer would be woken
// for every block, which costs more than the packets do
// (docs/decisions/0010-tftp.md has the figures).
type engine struct {
	now   func() time.Time
	poll  int // epoll
	wake  int // eventfd: fresh is not empty, or ctx ended
	mu    sync.Mutex
	fresh []*transfer
	over  bool // no transfers are accepted any more

	flights []*transfer   // by socket, a small number; nil for none
	count   int           // of flights that are not nil
	round   time.Duration // the smoothed round-trip time of the last client that sent something
	cores   int
}

// transfer is a flight and its socket.
type transfer struct {
	*flight
	fd    int
	ended func()
}

func newEngine(now func() time.Time) (*engine, error) {
	e := &engine{now: now, cores: runtime.NumCPU()}
	var err error
	if e.poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if e.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err == nil {
		err = e.watch(e.wake)
	}
	if err != nil {
		unix.Close(e.poll)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return e, nil
}

// watch adds a socket to poll, edge-triggered: each arrival is reported once.
func (e *engine) watch(fd int) error {
	return unix.EpollCtl(e.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)})
}

// socket returns a socket that is connected to a client.
func socket(local netip.Addr, client netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	if err := errors.Join(
		unix.Bind(fd, &unix.SockaddrInet4{Addr: local.As4()}),
		unix.Connect(fd, &unix.SockaddrInet4{Addr: client.Addr().As4(), Port: int(client.Port())}),
	); err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// once sends a single packet from a port of its own.
func (e *engine) once(local netip.Addr, client netip.AddrPort, out []byte) error {
	fd, err := socket(local, client)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, out)
	return err
}

// add starts a flight. ended is called when it is over, on a goroutine of its own.
func (e *engine) add(local netip.Addr, client netip.AddrPort, f *flight, ended func()) {
	fd, err := socket(local, client)
	if err != nil {
		f.broken(err)
		ended()
		return
	}
	t := &transfer{f, fd, ended}
	e.mu.Lock()
	over := e.over
	if !over {
		e.fresh = append(e.fresh, t)
	}
	e.mu.Unlock()
	if over {
		f.broken(context.Canceled)
		unix.Close(fd)
		ended()
		return
	}
	e.rouse()
}

// rouse wakes run.
func (e *engine) rouse() {
	unix.Write(e.wake, binary.NativeEndian.AppendUint64(nil, 1))
}

// run runs transfers until ctx ends.
func (e *engine) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, e.rouse)
	defer e.close(stop)
	events, in := make([]unix.EpollEvent, 128), make([]byte, 1500)
	now, due := e.now(), time.Time{} // of the earliest retransmission, or earlier
	for ctx.Err() == nil {
		n, err := e.wait(events, now, due)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		now = e.now()
		for _, event := range events[:max(n, 0)] {
			fd := int(event.Fd)
			if fd == e.wake {
				unix.Read(e.wake, in[:8])
				e.admit(now)
				due = now // there are others to wait for
				continue
			}
			if t := e.flight(fd); t != nil {
				e.read(t, in, now)
			}
		}
		if !now.Before(due) {
			due = e.again(in, now)
		}
	}
}

// Most of the time of a block is spent on sleeping and waking. So where answers
// come fast, and few transfers are under way, run polls for a while before it
// sleeps, as Linux' haltpoll does, with the same limit
// (https://docs.kernel.org/virt/guest-halt-polling.html).
const (
	fewFlights = 2
	lookFor    = 200 * time.Microsecond
)

// wait waits for packets.
func (e *engine) wait(events []unix.EpollEvent, now, due time.Time) (int, error) {
	if e.cores > 1 && e.count > 0 && e.count <= fewFlights && e.round > 0 && e.round < lookFor {
		for end := now.Add(2 * e.round); ; {
			n, err := unix.EpollWait(e.poll, events, 0)
			if n != 0 || err != nil {
				return n, err
			}
			if now = e.now(); !now.Before(end) {
				break
			}
		}
	}
	return unix.EpollWait(e.poll, events, e.patience(now, due))
}

// patience returns how long to wait for a packet, in milliseconds; -1 for ever.
func (e *engine) patience(now, due time.Time) int {
	if e.count == 0 {
		return -1
	}
	return int(max(due.Sub(now)+time.Millisecond-1, 0) / time.Millisecond)
}

// flight returns the transfer of a socket; nil for none.
func (e *engine) flight(fd int) *transfer {
	if fd >= len(e.flights) {
		return nil
	}
	return e.flights[fd]
}

// admit starts the flights that were added.
func (e *engine) admit(now time.Time) {
	e.mu.Lock()
	fresh := e.fresh
	e.fresh = nil
	e.mu.Unlock()
	for _, t := range fresh {
		for len(e.flights) <= t.fd {
			e.flights = append(e.flights, nil)
		}
		e.flights[t.fd] = t
		e.count++
		if err := e.watch(t.fd); err != nil {
			e.end(t, err)
			continue
		}
		e.send(t, now)
	}
}

// read reads packets of a client up to the expected one. Packets behind that are
// old, and are read before the next one.
func (e *engine) read(t *transfer, in []byte, now time.Time) {
	for {
		n, err := receive(t.fd, in)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil: // the port is closed
			e.end(t, err)
			return
		}
		if send, done := t.heard(in[:n], now); send || done {
			e.round = t.srtt
			e.step(t, now, send, done)
			return
		}
	}
}

// step performs the next step of a flight.
func (e *engine) step(t *transfer, now time.Time, send, done bool) {
	if send && !e.send(t, now) {
		return
	}
	if done {
		e.end(t, nil)
	}
}

// send sends the packet of a flight. A packet that the kernel has no room for
// counts as lost.
func (e *engine) send(t *transfer, now time.Time) bool {
	if err := send(t.fd, t.out); err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
		e.end(t, err)
		return false
	}
	t.flown(now)
	return true
}

// again retransmits packets whose timeout has passed, and returns the next timeout.
func (e *engine) again(in []byte, now time.Time) time.Time {
	next := now.Add(maxWait)
	for fd, t := range e.flights {
		if t == nil {
			continue
		}
		if !now.Before(t.due) {
			sent := t.sent
			if e.read(t, in, now); e.flights[fd] == t && t.sent.Equal(sent) {
				send, done := t.quiet()
				e.step(t, now, send, done)
			}
		}
		// A wait may become shorter before its packet is due.
		if soon := now.Add(max(t.due.Sub(now)/2, minWait/2)); soon.Before(next) {
			next = soon
		}
	}
	return next
}

// end ends a flight; err is the error of its socket, nil for none.
func (e *engine) end(t *transfer, err error) {
	if err != nil {
		t.broken(err)
	}
	if e.flight(t.fd) == t {
		e.flights[t.fd] = nil
		e.count--
	}
	unix.Close(t.fd)
	go t.ended()
}

// close ends all flights.
func (e *engine) close(stop func() bool) {
	e.mu.Lock()
	e.over = true
	fresh := e.fresh
	e.mu.Unlock()
	for _, t := range fresh {
		e.end(t, context.Canceled)
	}
	for _, t := range e.flights {
		if t != nil {
			e.end(t, context.Canceled)
		}
	}
	stop()
	unix.Close(e.poll)
	unix.Close(e.wake)
}
