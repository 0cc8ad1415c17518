package initramfs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/netboot/plane"
)

// silence is how long a boot server may say nothing in the midst of an answer.
const silence = 20 * time.Second

// refusedError is an answer that asking again does not change.
type refusedError struct {
	status int
	says   string
}

// Error implements error.
func (e *refusedError) Error() string {
	return fmt.Sprintf("the boot server says: %s (%d)", e.says, e.status)
}

// answer is the body of an answer. Its length is known.
type answer struct {
	io.Reader
	size int64
	conn net.Conn
}

func (a *answer) Close() error { return a.conn.Close() }

// quiet is a connection that gives up on a server that is silent too long.
type quiet struct{ net.Conn }

func (q quiet) Read(b []byte) (int, error) {
	if err := q.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return q.Conn.Read(b)
}

// call asks the boot server one thing, from byte at on, over a connection of
// its own. It is as much of HTTP/1.1 as that takes: net/http is larger than
// all the rest of /init.
func call(server string, q plane.Request, at int64, post []byte) (*answer, error) {
	conn, err := net.DialTimeout("tcp", server, 5*time.Second)
	if err != nil {
		return nil, err
	}
	a, err := converse(conn, server, q, at, post)
	if err != nil {
		conn.Close()
	}
	return a, err
}

func converse(conn net.Conn, server string, q plane.Request, at int64, post []byte) (*answer, error) {
	var s strings.Builder
	method := "GET"
	if post != nil {
		method = "POST"
	}
	fmt.Fprintf(&s, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: pikelet-init\r\nConnection: close\r\n", method, q.Encode(), server)
	if at > 0 {
		fmt.Fprintf(&s, "Range: bytes=%d-\r\n", at)
	}
	if post != nil {
		fmt.Fprintf(&s, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(post))
	}
	s.WriteString("\r\n")
	s.Write(post)
	if err := conn.SetWriteDeadline(time.Now().Add(silence)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, s.String()); err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(quiet{conn}, 64<<10)
	head := textproto.NewReader(r)
	line, err := head.ReadLine()
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	_, rest, _ := strings.Cut(line, " ")
	status, err := strconv.Atoi(strings.SplitN(rest, " ", 2)[0])
	if !strings.HasPrefix(line, "HTTP/1.") || err != nil {
		return nil, fmt.Errorf("%q is no answer of HTTP", line)
	}
	header, err := head.ReadMIMEHeader()
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	size, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64)
	if err != nil && status != 204 {
		return nil, errors.New("the answer does not say how long it is")
	}
	switch {
	case status == 204:
		return &answer{Reader: strings.NewReader(""), conn: conn}, nil
	case status == 200 && at > 0:
		return nil, errors.New("the boot server does not go on where a download broke off")
	case status == 200 || status == 206 && at > 0:
		return &answer{Reader: io.LimitReader(r, size), size: size, conn: conn}, nil
	}
	says, _ := io.ReadAll(io.LimitReader(r, min(size, 1000)))
	if status >= 500 {
		return nil, fmt.Errorf("the boot server says: %s (%d)", trimmed(string(says)), status)
	}
	return nil, &refusedError{status, trimmed(string(says))}
}

// small fetches all of an answer that is not large.
func small(server string, q plane.Request, limit int64) ([]byte, error) {
	a, err := call(server, q, 0, nil)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	if a.size > limit {
		return nil, fmt.Errorf("the answer has %d bytes, more than %d", a.size, limit)
	}
	b, err := io.ReadAll(a)
	if err == nil && int64(len(b)) != a.size {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// Waiting times before something is tried again, doubled each time.
const (
	firstPause = time.Second
	lastPause  = time.Minute
)

// patiently does something until it works or is refused for good, and says on
// the console what it waits for. It never gives up: a node in the attic comes
// up when what it lacked returns.
func patiently(what string, do func() error) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := do()
		var no *refusedError
		if err == nil || errors.As(err, &no) {
			return err
		}
		say("waiting for %s: %v; trying again in %v", what, err, pause)
		time.Sleep(pause)
	}
}

// download appends a blob to w, from byte at on, and returns how far it came.
func download(server string, q plane.Request, at, size int64, w io.Writer) (int64, error) {
	a, err := call(server, q, at, nil)
	if err != nil {
		return at, err
	}
	defer a.Close()
	if at+a.size != size {
		return at, fmt.Errorf("the boot server has %d bytes of it, the signed manifest says %d", at+a.size, size)
	}
	n, err := io.CopyBuffer(w, a, make([]byte, 256<<10))
	if at += n; err == nil && at < size {
		err = io.ErrUnexpectedEOF
	}
	return at, err
}
