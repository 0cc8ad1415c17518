package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Retransmission timeouts: the initial one, and the bounds of the measured one
// (RFC 6298). The RFC's minimum of 1 s is for the Internet; here a cable is
// between server and client.
const (
	firstWait = 500 * time.Millisecond
	minWait   = 20 * time.Millisecond
	maxWait   = 4 * time.Second
	tries     = 8 // of one packet: 20 s at least; a Pi waits 30 s for a file
)

// maxTime bounds a transfer. A Pi waits 30 s for a file; a client that acknowledges
// a block now and then holds a place no longer than this.
const maxTime = 5 * time.Minute

// head is the size of the header of a block, in bytes.
const head = 4

// readAhead is how much of a file is read at a time, in bytes.
const readAhead = 32 << 10

// flight is the state of a transfer: what to send next. It does no I/O on sockets.
type flight struct {
	t     Transfer
	start time.Time
	size  int // of a block
	file  File

	// What was read ahead, behind room for a header. The header of a block
	// overwrites the end of the block before, which the client has acknowledged.
	ahead []byte
	from  int   // where in ahead the next block is
	till  int   // how far ahead is filled
	read  int64 // of the file, bytes

	out   []byte // the packet that awaits its acknowledgement
	block uint16 // its number
	tried int    // how many times it was sent
	over  bool   // it is the last packet

	sent, due time.Time     // when it was, and when it is sent again
	wait      time.Duration // between the two
	srtt, dev time.Duration // smoothed round-trip time, and its variation
}

// open builds the first packet: the OACK, or block 1.
func (f *flight) open(file File, r request) {
	f.size, f.wait = r.block, firstWait
	f.file, f.ahead = file, make([]byte, head+max(readAhead/r.block, 1)*r.block)
	if r.options {
		f.out = r.oack(f.t.Size)
		return
	}
	f.next()
}

// next builds the packet of the next block. The first block is number 1, and 0
// follows 65535 (docs/platform.md 3.5).
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

// late reports whether the transfer has taken longer than maxTime, and ends it.
func (f *flight) late(now time.Time) bool {
	if now.Sub(f.start) <= maxTime {
		return false
	}
	f.t.Err = fmt.Errorf("transfer timed out after %v", maxTime)
	return true
}

// flown records that the packet was sent.
func (f *flight) flown(now time.Time) {
	if f.tried++; f.tried > 1 {
		f.t.Again++
		f.wait = min(2*f.wait, maxWait)
	}
	f.sent, f.due = now, now.Add(f.wait)
}

// heard handles a packet from the client. It reports whether there is another
// packet to send now, and whether the transfer is over. Acknowledgements of
// earlier blocks are ignored: answering one would send every later block twice
// (RFC 1123 section 4.2.3.1).
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
	if f.tried == 1 { // after a retransmission the acknowledged copy is unknown (Karn's algorithm)
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

// quiet handles a timeout. It reports whether to retransmit the packet, and whether
// the transfer is over.
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

// measured updates the retransmission timeout with a round-trip time (RFC 6298
// section 2).
func (f *flight) measured(r time.Duration) {
	if f.srtt == 0 {
		f.srtt, f.dev = r, r/2
	} else {
		f.dev += ((f.srtt - r).Abs() - f.dev) / 4
		f.srtt += (r - f.srtt) / 8
	}
	f.wait = min(max(f.srtt+4*f.dev, minWait), maxWait)
}
