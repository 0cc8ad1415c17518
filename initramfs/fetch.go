package initramfs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
)

// pace is what a boot server must keep up: least bytes of an answer, or its end,
// in each silence that is spent waiting for it. One that sends a byte now and then
// is no better than one that sends none.
type pace struct {
	silence time.Duration
	least   int // bytes
}

// ordinary is the pace of every answer. The head of one is shorter than least, so
// it has one silence in all.
var ordinary = pace{20 * time.Second, 64 << 10}

// maxHead bounds the head of an answer, in bytes.
const maxHead = 16 << 10

// errHead is an answer whose head has more bytes.
var errHead = fmt.Errorf("the answer's head has more than %d bytes", maxHead)

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

// paced is a connection that gives up on a server that does not keep its pace.
type paced struct {
	net.Conn
	pace
	left time.Duration // for the next least bytes
	got  int           // of them
}

func newPaced(c net.Conn, p pace) *paced { return &paced{Conn: c, pace: p, left: p.silence} }

func (q *paced) Read(b []byte) (int, error) {
	start := time.Now()
	if err := q.SetReadDeadline(start.Add(q.left)); err != nil {
		return 0, err
	}
	n, err := q.Conn.Read(b)
	q.left -= time.Since(start)
	if q.got += n; q.got >= q.least {
		q.got, q.left = 0, q.silence
	}
	return n, err
}

// call asks the boot server one thing, from byte at on, over a connection of
// its own. It is as much of HTTP/1.1 as that takes: net/http is larger than
// all the rest of /init.
func call(server string, q bootapi.Request, at int64, post []byte) (*answer, error) {
	conn, err := net.DialTimeout("tcp", server, 5*time.Second)
	if err != nil {
		return nil, err
	}
	a, err := converse(conn, ordinary, server, q, at, post)
	if err != nil {
		conn.Close()
	}
	return a, err
}

func converse(conn net.Conn, p pace, server string, q bootapi.Request, at int64, post []byte) (*answer, error) {
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
	if err := conn.SetWriteDeadline(time.Now().Add(p.silence)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, s.String()); err != nil {
		return nil, err
	}
	from := &io.LimitedReader{R: newPaced(conn, p), N: maxHead}
	r := bufio.NewReaderSize(from, 64<<10)
	status, size, err := readHead(r)
	if err != nil && from.N == 0 {
		err = errHead
	}
	if err != nil {
		return nil, err
	}
	from.N = math.MaxInt64
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

// readHead reads the head of an answer.
func readHead(r *bufio.Reader) (status int, size int64, err error) {
	head := textproto.NewReader(r)
	line, err := head.ReadLine()
	if err != nil {
		return 0, 0, fmt.Errorf("reading the answer: %w", err)
	}
	_, rest, _ := strings.Cut(line, " ")
	status, err = strconv.Atoi(strings.SplitN(rest, " ", 2)[0])
	if !strings.HasPrefix(line, "HTTP/1.") || err != nil {
		return 0, 0, fmt.Errorf("%.100q is no answer of HTTP", line)
	}
	header, err := head.ReadMIMEHeader()
	if err != nil {
		return 0, 0, fmt.Errorf("reading the answer: %w", err)
	}
	size, err = strconv.ParseInt(header.Get("Content-Length"), 10, 64)
	if (err != nil || size < 0) && status != 204 {
		return 0, 0, errors.New("the answer does not say how long it is")
	}
	return status, size, nil
}

// small fetches all of an answer that is not large.
func small(server string, q bootapi.Request, limit int64) ([]byte, error) {
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
func download(server string, q bootapi.Request, at, size int64, w io.Writer) (int64, error) {
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
