package script

import "bytes"

// stream is an open file of a shell: what is read, or where it writes to.
type stream struct {
	in  *source
	out sink
}

// source is what is left to be read; descriptors that were copied share it. What a
// file holds is looked at when it is read, not when it is opened.
type source struct {
	data []byte
	view *view
	file *node // in place of data
	at   int
}

func (s *source) left() []byte {
	if s.file != nil {
		s.data = s.view.look(s.file)
	}
	return s.data[min(s.at, len(s.data)):]
}

// rest returns all that is left.
func (s *source) rest() []byte {
	b := s.left()
	s.at += len(b)
	return b
}

// line returns the next line without its end, and reports whether it had one.
func (s *source) line() (string, bool) {
	b := s.left()
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		s.at += i + 1
		return string(b[:i]), true
	}
	s.at += len(b)
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
