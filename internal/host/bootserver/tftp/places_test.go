package tftp

import (
	"bytes"
	"net/netip"
	"testing"
	"time"
)

// TestShares: who has one share full leaves the others alone; one client has no
// more than its part; what ends is free again.
func TestShares(t *testing.T) {
	p := newPlaces([]int{2, maxOfClient + 1})
	port := func(host, port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(host)}), uint16(port))
	}
	takes := func(client netip.AddrPort, in int, want, wantTwice bool) {
		t.Helper()
		if took, twice := p.take(client, func() int { return in }); took != want || twice != wantTwice {
			t.Errorf("%v in share %d: took %v, twice %v", client, in, took, twice)
		}
	}
	takes(port(1, 1), 0, true, false)
	takes(port(1, 1), 0, false, true)
	takes(port(1, 2), 0, true, false)
	takes(port(2, 1), 0, false, false)
	for i := range maxOfClient {
		takes(port(3, i), 1, true, false)
	}
	takes(port(3, 99), 1, false, false)
	takes(port(4, 1), 1, true, false)
	takes(port(5, 1), 1, false, false)
	p.give(port(1, 1))
	takes(port(2, 1), 0, true, false)
	takes(port(5, 1), 1, false, false)
	for i := range maxOfClient {
		p.give(port(3, i))
	}
	if len(p.of) != 3 { // of hosts 1, 2 and 4
		t.Errorf("%v", p.of)
	}
	q := newPlaces(nil)
	for i := range maxAtOnce {
		if took, _ := q.take(port(i/maxOfClient, i), func() int { return 0 }); !took {
			t.Fatal(i)
		}
	}
	if took, _ := q.take(port(99, 1), func() int { return 0 }); took {
		t.Error("there is no bound")
	}
}

// TestErrorsFit: an error is never longer than the request it answers.
func TestErrorsFit(t *testing.T) {
	e := &Error{CodeDenied, "unknown client"}
	for length := range 40 {
		b := e.fit(length)
		if len(b) > length {
			t.Errorf("%d bytes answer %d", len(b), length)
		}
		if b != nil && (b[len(b)-1] != 0 || !bytes.HasPrefix(b, []byte{0, opError, 0, CodeDenied})) || b == nil && length >= errorHead+1 {
			t.Errorf("%d bytes are answered by %q", length, b)
		}
	}
	if got := string(e.fit(100)); got != string(e.encode()) {
		t.Errorf("%q", got)
	}
}

// TestNoAnswerIsLonger: whatever is asked, the error that answers it is no longer.
func TestNoAnswerIsLonger(t *testing.T) {
	at, _ := serving(t, nil, 0)
	for _, says := range []string{
		"\x00\x03", "\x00\x01", "\x00\x01x\x00octet\x00", "\x00\x01x\x00\x1b\x1b\x1b\x00",
		"\x00\x01x\x00octet\x00blksize\x00\x1b\x00", "\x00\x02x\x00octet\x00",
	} {
		c := newClient(t, at)
		c.send(says)
		if got := c.hears(100 * time.Millisecond); len(got) > len(says) {
			t.Errorf("%q is answered by %q", says, got)
		}
	}
}

// TestTransferEnds: a client that acknowledges one block now and then does not
// have its transfer for ever.
func TestTransferEnds(t *testing.T) {
	start := time.Unix(1700000000, 0)
	for _, noise := range []bool{false, true} {
		f := &flight{t: Transfer{Size: 1 << 20}, start: start}
		f.open(memory{bytes.NewReader(make([]byte, 1<<20))}, request{block: 8})
		now := start
		for done := false; !done; {
			if now.Sub(start) > maxTime+time.Minute {
				t.Fatal("it is still under way")
			}
			f.flown(now)
			now = now.Add(10 * time.Second)
			says := ack(f.block)
			if noise {
				says = ack(f.block + 1)
			}
			_, done = f.heard([]byte(says), now)
		}
		if now.Sub(start) < maxTime || f.t.Err == nil {
			t.Errorf("it ended after %v with %v", now.Sub(start), f.t.Err)
		}
	}
}
