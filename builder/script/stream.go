package script

import "bytes"

// stream is an open file of a shell: what is read, or where it writes to.
type stream struct {
	in  *source
	out sink
}

// source is what is left to be read; descriptors that were copied share it.
type source struct {
	data []byte
	at   int
}

// rest returns all that is left.
func (s *source) rest() []byte {
	b := s.data[s.at:]
	s.at = len(s.data)
	return b
}

// line returns the next line without its end, and reports whether it had one.
func (s *source) line() (string, bool) {
	b := s.data[s.at:]
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		s.at += i + 1
		return string(b[:i]), true
	}
	s.at = len(s.data)
	return string(b), false
}

type sink interface{ write(p []byte) }

// buffer keeps what is written to it, up to a limit.
type buffer struct {
	bytes.Buffer
	m    *machine
	what string // that is limited
}

func (b *buffer) write(p []byte) {
	b.m.bound(b.Len()+len(p), b.what)
	b.Write(p)
}

// nowhere is /dev/null.
type nowhere struct{}

func (nowhere) write([]byte) {}

// fileSink writes to a file of the tree.
type fileSink struct {
	view   *view
	file   *node
	at     int
	append bool
}

func (f *fileSink) write(p []byte) {
	if f.append {
		f.at = len(f.view.contents(f.file))
	}
	f.view.writeAt(f.file, f.at, p)
	f.at += len(p)
}
