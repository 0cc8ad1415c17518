package initramfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/netboot/plane"
)

// answering answers one connection after the other, and returns where, and
// what was asked.
func answering(t *testing.T, answers ...string) (at string, asked chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	asked = make(chan string, len(answers))
	go func() {
		for _, a := range answers {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 4096)
			n, _ := c.Read(b)
			asked <- string(b[:n])
			io.WriteString(c, a)
			c.Close()
		}
	}()
	return l.Addr().String(), asked
}

var root = plane.Request{Kind: plane.Blob, Machine: plane.Machine{Serial: "1", MAC: "d8:3a:dd:01:02:03", Build: "x"}, Digest: "sha256:" + strings.Repeat("0", 64)}

// TestDownloadGoesOn: what came of a download that broke off is not asked for
// again.
func TestDownloadGoesOn(t *testing.T) {
	at, asked := answering(t,
		"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123",
		"HTTP/1.1 206 Partial Content\r\nContent-Length: 6\r\n\r\n45",
		"HTTP/1.1 206 Partial Content\r\nContent-Length: 4\r\n\r\n6789")
	var got bytes.Buffer
	var n int64
	var err error
	for try := range 3 {
		n, err = download(at, root, n, 10, &got)
		request := <-asked
		if want := fmt.Sprintf("Range: bytes=%d-\r\n", []int{0, 4, 6}[try]); strings.Contains(request, want) != (try > 0) {
			t.Errorf("try %d asked %q", try, request)
		}
		if (err == nil) != (try == 2) {
			t.Errorf("try %d: %v", try, err)
		}
	}
	if got.String() != "0123456789" || n != 10 {
		t.Errorf("%q, %d", got.String(), n)
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	for answer, want := range map[string]string{
		"":                         "EOF",
		"HELLO\r\n\r\n":            "no answer of HTTP",
		"HTTP/1.1 200 OK\r\n\r\nx": "how long it is",
		"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n":                           "more than",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab":                             "unexpected EOF",
		"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nlater":                        "the boot server says: later (503)",
		"HTTP/1.1 403 Forbidden\r\nContent-Length: 12\r\n\r\nnot adopted\n":          "the boot server says: not adopted (403)",
		"HTTP/1.1 200 OK\r\n" + strings.Repeat("x", 70000) + "\r\nContent-Length: 1": "",
	} {
		at, _ := answering(t, answer)
		b, err := small(at, root, 1000)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %q, %v; want %q", answer, b, err, want)
		}
		var no *refusedError
		if refused := errors.As(err, &no); refused != strings.Contains(answer, "403") {
			t.Errorf("%.40q: refused for good: %v", answer, refused)
		}
	}
}
