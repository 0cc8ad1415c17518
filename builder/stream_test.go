package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"testing"
	"time"
)

// slowly writes to a buffer, and waits now and then.
type slowly struct{ bytes.Buffer }

func (s *slowly) Write(b []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return s.Buffer.Write(b)
}

// failing fails when it has taken so many bytes.
type failing struct{ left int }

var errFull = errors.New("full")

func (f *failing) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, errFull
	}
	return len(b), nil
}

func TestStreamFeedsAllTakers(t *testing.T) {
	data := make([]byte, 9*chunkSize+777)
	rnd := rand.New(rand.NewSource(6))
	rnd.Read(data)
	var quick bytes.Buffer
	var slow slowly
	s := newStream(t.Context(), &quick, &slow)
	for left := data; len(left) > 0; {
		n := min(len(left), 1+rnd.Intn(2*chunkSize))
		if _, err := s.Write(left[:n]); err != nil {
			t.Fatal(err)
		}
		left = left[n:]
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(quick.Bytes(), data) || !bytes.Equal(slow.Bytes(), data) {
		t.Error("a taker did not get what was written")
	}
}

func TestStreamReportsErrors(t *testing.T) {
	var all bytes.Buffer
	s := newStream(t.Context(), &all, &failing{left: 2 * chunkSize})
	for range 20 { // goes on, and ends
		s.Write(make([]byte, chunkSize))
	}
	if err := s.Close(); !errors.Is(err, errFull) {
		t.Errorf("a taker failed, and Close says %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s = newStream(ctx, &all)
	cancel()
	if _, err := s.Write(make([]byte, 2*chunkSize)); !errors.Is(err, context.Canceled) {
		t.Errorf("given up, and Write says %v", err)
	}
	s.Close()
}

func TestExtentsMerge(t *testing.T) {
	for _, c := range []struct {
		what string
		add  func(e *extents)
		want string
	}{
		{"side by side", func(e *extents) { e.add(4096, 4096); e.add(0, 10); e.add(8192, 1) }, "[{0 2 }]"},
		{"apart", func(e *extents) { e.add(0, 1); e.add(8192, 1) }, "[{0 0 } {2 2 }]"},
		{"a known one stays by itself", func(e *extents) { e.add(0, 4096); e.add(4096, 8192); e.addKnown(4096, 8192, "k"); e.add(12288, 1) },
			"[{0 0 } {1 2 k} {3 3 }]"},
		{"one that reaches out of a known one", func(e *extents) { e.addKnown(0, 8192, "k"); e.add(4096, 8192) }, "[{0 1 k} {2 2 }]"},
		{"parts of blocks are not known", func(e *extents) { e.addKnown(0, 5000, "k"); e.add(0, 5000) }, "[{0 1 }]"},
	} {
		var e extents
		c.add(&e)
		if got := fmt.Sprint(e.merged()); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}
