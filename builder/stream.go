package builder

import (
	"context"
	"io"
	"sync"
)

// stream hands what is written to it to several takers, each on a goroutine of
// its own: an image is written and hashed while it comes, by as many cores as
// it has uses.
type stream struct {
	cancelled func() error
	part      *chunk
	free      chan *chunk
	to        []chan *chunk
	done      sync.WaitGroup
	fails     []error
}

// chunk is so many bytes on their way to all takers.
type chunk struct {
	b     []byte
	users sync.WaitGroup
}

// chunkSize is what goes to the takers at once, and chunks how many are on
// their way.
const (
	chunkSize = 1 << 20
	chunks    = 6
)

// newStream returns a stream to so many takers, whose Write fails once ctx is done.
func newStream(ctx context.Context, takers ...io.Writer) *stream {
	s := &stream{cancelled: ctx.Err, free: make(chan *chunk, chunks), fails: make([]error, len(takers))}
	for range chunks {
		s.free <- &chunk{b: make([]byte, 0, chunkSize)}
	}
	for i, w := range takers {
		next := make(chan *chunk, chunks)
		s.to = append(s.to, next)
		s.done.Add(1)
		go func() {
			defer s.done.Done()
			for c := range next {
				if s.fails[i] == nil {
					_, s.fails[i] = w.Write(c.b)
				}
				c.users.Done()
			}
		}()
	}
	return s
}

// Write hands bytes to the takers. Close returns their errors.
func (s *stream) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if s.part == nil {
			if err := s.cancelled(); err != nil {
				return 0, err
			}
			s.part = <-s.free
			s.part.users.Wait()
			s.part.b = s.part.b[:0]
		}
		take := min(len(p), chunkSize-len(s.part.b))
		s.part.b = append(s.part.b, p[:take]...)
		p = p[take:]
		if len(s.part.b) == chunkSize {
			s.flush()
		}
	}
	return n, nil
}

func (s *stream) flush() {
	if s.part == nil {
		return
	}
	s.part.users.Add(len(s.to))
	for _, next := range s.to {
		next <- s.part
	}
	s.free <- s.part // whoever takes it next waits for its users
	s.part = nil
}

// Close returns when all takers have all bytes, and their first error.
func (s *stream) Close() error {
	s.flush()
	for _, next := range s.to {
		close(next)
	}
	s.done.Wait()
	for _, err := range s.fails {
		if err != nil {
			return err
		}
	}
	return nil
}
