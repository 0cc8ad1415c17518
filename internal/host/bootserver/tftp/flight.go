package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// How long an answer is waited for before a packet is sent again: at first, and
// between which bounds what is measured counts. RFC 6298 has the arithmetic;
// its bound of 1 s is for the Internet, a Pi's cable is shorter.
const (
	firstWait = 500 * time.Millisecond
	minWait   = 20 * time.Millisecond
	maxWait   = 4 * time.Second
	tries     = 8 // of one packet: 20 s at least, a Pi's own patience for a file is 30 s
)

// maxTime bounds a transfer. A Pi gives a file 30 s; who acknowledges a block
// now and then holds a place no longer than this.
const maxTime = 5 * time.Minute

// head is the size of a block's head, bytes.
const head = 4

// readAhead is how much of a file is read at a time, bytes.
const readAhead = 32 << 10

// flight is a transfer under way: what to send next, as it goes on. It knows
// nothing of sockets.
type flight struct {
	t     Transfer
	start time.Time
	size  int // of a block
	file  File

	// What was read ahead, behind room for a packet's head. The head of a block
	// is written over the end of the one before, which the client has.
	ahead []byte
	from  int   // where in ahead the next block is
	till  int   // how far ahead is filled
	read  int64 // of the file, bytes

	out   []byte // the packet that is under way
	block uint16 // its number
	tried int    // how often it was sent
	over  bool   // nothing comes behind it

	sent, due time.Time     // when it was, and when it is sent again
	wait      time.Duration // between the two
	srtt, dev time.Duration // smoothed round trip, and how far it varies
}

// open makes the first packet: the OACK, or block 1.
func (f *flight) open(file File, r request) {
	f.size, f.wait = r.block, firstWait
	f.file, f.ahead = file, make([]byte, head+max(readAhead/r.block, 1)*r.block)
	if r.options {
		f.out = r.oack(f.t.Size)
		return
	}
	f.next()
}

// next makes the packet of the next block. The first one is number 1, and after
// 65535 comes 0 (docs/platform.md 3.5).
func (f *flight) next() {
	f.block++
	f.tried = 0
	at := f.from
	if at == f.till {
		at = head
		n, err := f.file.ReadAt(f.ahead[head:], f.read)
		if err != nil && !errors.Is(err, io.EOF) {
			f.t.Err = fmt.Errorf("reading at byte %d: %w", f.read, err)
			f.out, f.over = (&Error{CodeOther, "the file can't be read"}).encode(), true
			return
		}
		f.till = head + n
		f.read += int64(n)
	}
	f.from = min(at+f.size, f.till)
	f.out = f.ahead[at-head : f.from]
	binary.BigEndian.PutUint16(f.out, opData)
	binary.BigEndian.PutUint16(f.out[2:], f.block)
	f.over = f.from-at < f.size
}

// late reports whether the transfer has taken longer than any may, and ends it.
func (f *flight) late(now time.Time) bool {
	if now.Sub(f.start) <= maxTime {
		return false
	}
	f.t.Err = fmt.Errorf("transfer timed out after %v", maxTime)
	return true
}

// flown notes that the packet was sent.
func (f *flight) flown(now time.Time) {
	if f.tried++; f.tried > 1 {
		f.t.Again++
		f.wait = min(2*f.wait, maxWait)
	}
	f.sent, f.due = now, now.Add(f.wait)
}

// heard takes what the client sent. It reports whether there is another packet to
// send now, and whether all is over. What acknowledges an earlier block is
// passed over, and not answered: to answer it would send every block twice from
// there on (RFC 1123 4.2.3.1).
func (f *flight) heard(in []byte, now time.Time) (send, done bool) {
	got, aborted, err := parseAck(in)
	switch {
	case err != nil: // noise
		return false, false
	case aborted != nil:
		f.t.Aborted = fmt.Sprintf("%d %s", aborted.Code, aborted.Message)
		return false, true
	case got != f.block:
		return false, f.late(now)
	}
	if f.tried == 1 { // of a packet sent twice it is unknown which was answered (Karn's algorithm)
		f.measured(now.Sub(f.sent))
	}
	if f.block > 0 || f.t.Sent > 0 {
		f.t.Sent += int64(len(f.out) - head)
	}
	if f.over {
		return false, true
	}
	if f.late(now) {
		return false, true
	}
	f.next()
	return true, f.t.Err != nil
}

// quiet is called when no answer came in time. It reports whether the packet is
// sent again, and whether the transfer is over.
func (f *flight) quiet() (send, done bool) {
	if f.tried < tries {
		return true, false
	}
	f.t.Err = fmt.Errorf("no acknowledgement of block %d after sending it %d times", f.block, tries)
	return false, true
}

// broken ends the transfer: its socket failed, or the server stops.
func (f *flight) broken(err error) {
	if !errors.Is(err, context.Canceled) {
		err = fmt.Errorf("sending a packet: %w", err)
	}
	f.t.Err = err
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
