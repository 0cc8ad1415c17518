package initramfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
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

var root = bootapi.Request{
	Kind:    bootapi.Blob,
	Machine: bootapi.Machine{Serial: "1", MAC: "d8:3a:dd:01:02:03", Build: "x"},
	Digest:  "sha256:" + strings.Repeat("0", 64),
}

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

// TestDownloadLength: a blob of another length than was signed is not taken.
func TestDownloadLength(t *testing.T) {
	for _, length := range []int{9, 11} {
		at, _ := answering(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", length, strings.Repeat("x", length)))
		var got bytes.Buffer
		if n, err := download(at, root, 0, 10, &got); err == nil || n != 0 || got.Len() != 0 {
			t.Errorf("%d bytes: %d, %q, %v", length, n, got.String(), err)
		}
	}
}

func TestInvalidResponsesAreRefused(t *testing.T) {
	for answer, want := range map[string]string{
		"":                         "EOF",
		"HELLO\r\n\r\n":            "no answer of HTTP",
		"HTTP/1.1 200 OK\r\n\r\nx": "how long it is",
		"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n":                                       "more than",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab":                                         "unexpected EOF",
		"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nlater":                                    "the boot server says: later (503)",
		"HTTP/1.1 403 Forbidden\r\nContent-Length: 12\r\n\r\nnot adopted\n":                      "the boot server says: not adopted (403)",
		"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n":                                          "how long it is",
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 70000) + "\r\nContent-Length: 1\r\n\r\nx": "head has more than 16384 bytes",
		"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 10000) + "Content-Length: 1\r\n\r\nx": "head has more than 16384 bytes",
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

// onPipe has an answer sent over a connection, and returns how it is read.
func onPipe(t *testing.T, p pace, answer func(net.Conn)) (*answer, error) {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close(); there.Close() })
	go func() {
		b := make([]byte, 4096)
		if _, err := there.Read(b); err == nil {
			answer(there)
		}
	}()
	return converse(here, p, "server", root, 0, nil)
}

// drip sends a byte again and again, a millisecond apart, and hangs up unless the
// other end did.
func drip(c net.Conn, b string) {
	for range 2000 {
		if _, err := io.WriteString(c, b); err != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
	c.Close()
}

// TestSlowServerTimesOut: a download ends where the server sends single bytes now
// and then, in the header of its response or in the body.
func TestSlowServerTimesOut(t *testing.T) {
	p := pace{50 * time.Millisecond, 64 << 10}
	if _, err := onPipe(t, p, func(c net.Conn) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nX: ")
		drip(c, "x")
	}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("its head: %v", err)
	}
	a, err := onPipe(t, p, func(c net.Conn) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
		drip(c, "x")
	})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, a); !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 {
		t.Errorf("its body: %d bytes, %v", n, err)
	}
}

// TestSlowMachine: what counts is the time a server takes, not that of whoever
// reads, and each piece that comes in time begins it anew.
func TestSlowMachine(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	go func() {
		for range 4 {
			there.Write(make([]byte, 1000))
		}
		there.Close()
	}()
	q := newPaced(here, pace{time.Hour, 1500})
	b := make([]byte, 1000)
	for i, want := range []int{1000, 0, 1000, 0} {
		n, err := q.Read(b)
		if err != nil || n != 1000 || q.got != want || (q.left == time.Hour) != (want == 0) {
			t.Fatalf("read %d: %d bytes, %v; %d counted, %v left", i, n, err, q.got, q.left)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestFetchedFile: a file that came is compared with what was signed.
func TestFetchedFile(t *testing.T) {
	for body, want := range map[string]string{"0123456789": "", "012345678x": "changed on its way"} {
		at, _ := answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"+body)
		b := &boot{net: &network{server: at, serial: "1", mac: "d8:3a:dd:01:02:03"}}
		var got bytes.Buffer
		err := b.fetch(image.File{Name: "root", Size: 10, Digest: image.DigestOf([]byte("0123456789"))}, &got)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", body, err, want)
		}
	}
}

// TestServedCmdlineMustBeSigned: the kernel command line that a server hands out
// is the signed one, and the one the kernel received.
func TestServedCmdlineMustBeSigned(t *testing.T) {
	const words = "pikelet.slot=net ro panic=10\n"
	m := &image.Manifest{Files: []image.File{{Name: slots.Net.CmdlineFile(), Size: int64(len(words)), Digest: image.DigestOf([]byte(words))}}}
	for _, c := range []struct{ served, told, want string }{
		{words, words, ""},
		{words, words + " console=ttyAMA0 bcm2708_fb.fbwidth=656", ""},
		{words, "pikelet.slot=net ro", `the kernel was not told "panic=10"`},
		{"pikelet.slot=net ro panic=11\n", "pikelet.slot=net ro panic=11\n", "changed: digest mismatch"},
	} {
		at, _ := answering(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(c.served), c.served))
		line, err := cmdline.Parse([]byte(c.told))
		if err != nil {
			t.Fatal(err)
		}
		b := &boot{net: &network{server: at}, line: line, img: m}
		if err := b.checkServedWords(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("served %q, told %q: %v; want %q", c.served, c.told, err, c.want)
		}
	}
	b := &boot{img: &image.Manifest{}}
	if err := b.checkServedWords(); err == nil || !strings.Contains(err.Error(), "has no cmdline-net.txt") {
		t.Errorf("a manifest without words: %v", err)
	}
}
