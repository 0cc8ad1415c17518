package tftp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestConversations replays the requests of firmware, packet by packet.
func TestConversations(t *testing.T) {
	at, done := serving(t, map[string][]byte{"config.txt": []byte("arm_64bit=1\n"), "two": noise(1024), "empty": nil}, 0)
	t.Run("a file that fits a block", func(t *testing.T) {
		c := newClient(t, at)
		c.send(rrq("config.txt", "tsize", "0", "blksize", "1468"))
		c.expect("\x00\x06tsize\x0012\x00blksize\x001468\x00")
		c.send(ack(0))
		c.expect("\x00\x03\x00\x01arm_64bit=1\n")
		c.send(ack(1))
		if got := <-done; got.Err != nil || got.Sent != 12 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("a ROM that asks for nothing", func(t *testing.T) {
		c := newClient(t, at)
		c.send(rrq("two"))
		for block := uint16(1); block <= 2; block++ {
			if got := c.hears(hang); len(got) != 516 {
				t.Fatalf("%d bytes", len(got))
			}
			c.send(ack(block))
		}
		c.expect("\x00\x03\x00\x03") // that a file ends with a whole block is said by an empty one
		c.send(ack(3))
		<-done
	})
	t.Run("an empty file", func(t *testing.T) {
		c := newClient(t, at)
		c.send(rrq("empty", "tsize", "0"))
		c.expect("\x00\x06tsize\x000\x00")
		c.send(ack(0))
		c.expect("\x00\x03\x00\x01")
		c.send(ack(1))
		<-done
	})
	t.Run("a request for the size alone", func(t *testing.T) {
		c := newClient(t, at)
		c.send(rrq("two", "tsize", "0", "blksize", "1024"))
		c.expect("\x00\x06tsize\x001024\x00blksize\x001024\x00")
		c.send("\x00\x05\x00\x00Early terminate\x00")
		if got := <-done; got.Err != nil || got.Aborted != "0 Early terminate" {
			t.Errorf("%+v", got)
		}
	})
	t.Run("a missing file", func(t *testing.T) {
		c := newClient(t, at)
		c.send(rrq("recovery.elf", "tsize", "0"))
		c.expect("\x00\x05\x00\x01there is no such file\x00")
		<-done
	})
}

// TestDuplicateACK: an ACK that comes twice is answered once. A server with the
// Sorcerer's Apprentice bug sends a block twice for it, every time; on a slow
// machine the server may send one again sometimes.
func TestDuplicateACK(t *testing.T) {
	at, done := serving(t, map[string][]byte{"config.txt": []byte("arm_64bit=1\n"), "two": noise(1024)}, 0)
	for range 5 {
		c := newClient(t, at)
		c.send(rrq("two", "blksize", "512"))
		c.expect("\x00\x06blksize\x00512\x00")
		c.send(ack(0))
		c.send(ack(0))
		for block := uint16(1); block <= 3; block++ {
			if got := c.hears(hang); !strings.HasPrefix(got, "\x00\x03"+ack(block)[2:]) {
				t.Fatalf("%.4q, not block %d", got, block)
			}
			c.send(ack(block))
			if block < 3 {
				c.send(ack(block))
			}
		}
		if got := <-done; got.Again == 0 {
			return
		}
	}
	t.Error("something was sent twice each time")
}

// TestLostAnswer: packets without an answer are sent again.
func TestLostAnswer(t *testing.T) {
	at, done := serving(t, map[string][]byte{"config.txt": []byte("arm_64bit=1\n"), "two": noise(1024)}, 0)
	c := newClient(t, at)
	c.send(rrq("config.txt", "tsize", "0"))
	for _, twice := range []string{"\x00\x06tsize\x0012\x00", "\x00\x03\x00\x01arm_64bit=1\n"} {
		c.expect(twice)
		c.last = ""
		c.expect(twice)
		c.send(ack(0))
	}
	c.send(ack(1))
	if got := <-done; got.Err != nil || got.Again < 2 {
		t.Errorf("%+v", got)
	}
}

// TestInvalidRequests are answered with errors no longer than the requests.
func TestInvalidRequests(t *testing.T) {
	at, _ := serving(t, map[string][]byte{"two": noise(1024)}, 0)
	for name, test := range map[string]struct {
		says string
		want *Error // which is cut to the length of what was said
	}{
		"a write request":   {"\x00\x02a-long-name-of-a-file\x00octet\x00", &Error{CodeDenied, "nothing is written here"}},
		"netascii":          {"\x00\x01a-long-name-of-a-file\x00netascii\x00", &Error{CodeIllegal, "only octet is served"}},
		"no end":            {"\x00\x01x\x00octet", &Error{CodeIllegal, "a re"}},
		"a block size of 0": {rrq("two", "blksize", "0"), &Error{CodeOptions, "blksize: want a n"}},
		"a huge request":    {rrq(strings.Repeat("x", 600)), &Error{CodeIllegal, "a request of 609 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, at)
			c.send(test.says)
			c.expect(string(test.want.encode()))
		})
	}
}

// TestErrorsAreNotAnswered: an ERROR gets no answer, whoever sends it.
func TestErrorsAreNotAnswered(t *testing.T) {
	at, _ := serving(t, nil, 0)
	c := newClient(t, at)
	c.send("\x00\x05\x00\x00x\x00")
	if got := c.hears(200 * time.Millisecond); got != "" {
		t.Errorf("%q", got)
	}
}

// TestRollover: block 65535 is followed by block 0.
func TestRollover(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes long")
	}
	want := noise(8*(1<<16+100) + 3)
	at, done := serving(t, map[string][]byte{"big": want}, 0)
	c := newClient(t, at)
	c.send(rrq("big", "blksize", "8"))
	c.expect("\x00\x06blksize\x008\x00")
	c.send(ack(0))
	var got []byte
	for {
		b := c.hears(hang)
		if len(b) < 4 {
			t.Fatalf("%q after %d bytes", b, len(got))
		}
		block := binary.BigEndian.Uint16([]byte(b[2:4]))
		c.send(ack(block))
		if block != uint16(len(got)/8+1) {
			continue // sent again, where this machine was slow
		}
		if got = append(got, b[4:]...); len(b) < 12 {
			break
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came, of %d", len(got), len(want))
	}
	<-done
}

// TestTransferLimit: transfers above the limit are refused at once.
func TestTransferLimit(t *testing.T) {
	at, _ := serving(t, map[string][]byte{"f": noise(2000)}, 2)
	for range 2 {
		c := newClient(t, at)
		c.send(rrq("f", "tsize", "0"))
		c.expect("\x00\x06tsize\x002000\x00")
	}
	c := newClient(t, at)
	c.send(rrq("f", "tsize", "0"))
	c.expect("\x00\x05\x00\x00too many tran\x00")

	// A single machine has a limit of its own.
	at, _ = serving(t, map[string][]byte{"f": noise(2000)}, 0)
	for range maxOfClient {
		c := newClient(t, at)
		c.send(rrq("f", "tsize", "0"))
		c.expect("\x00\x06tsize\x002000\x00")
	}
	c = newClient(t, at)
	c.send(rrq("f", "tsize", "0"))
	c.expect("\x00\x05\x00\x00too many tran\x00")
}

// TestRequestTwice: a request that was sent again because the answer was late
// is one transfer.
func TestRequestTwice(t *testing.T) {
	at, done := serving(t, map[string][]byte{"f": []byte("x")}, 0)
	c := newClient(t, at)
	c.send(rrq("f", "tsize", "0"))
	c.send(rrq("f", "tsize", "0"))
	c.expect("\x00\x06tsize\x001\x00")
	c.send(ack(0))
	c.expect("\x00\x03\x00\x01x")
	c.send(ack(1))
	<-done
	select {
	case x := <-done:
		t.Errorf("a second one: %+v", x)
	case <-time.After(100 * time.Millisecond):
	}
}

// TestStockClients: the clients people have.
func TestStockClients(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs curl and tftp")
	}
	want := noise(1<<20 + 17)
	at, _ := serving(t, map[string][]byte{"dir/file": want}, 0)
	dir := t.TempDir()
	for name, args := range map[string][]string{
		"curl":                   {"curl", "-sS", "-o", "got", fmt.Sprintf("tftp://127.0.0.1:%d/dir/file", at.Port)},
		"curl with large blocks": {"curl", "-sS", "--tftp-blksize", "1428", "-o", "got", fmt.Sprintf("tftp://127.0.0.1:%d/dir/file", at.Port)},
		"tftp":                   {"tftp", "-m", "binary", "127.0.0.1", fmt.Sprint(at.Port), "-c", "get", "dir/file", "got"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			got, err := os.ReadFile(filepath.Join(dir, "got"))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes came, of %d (%v)", len(got), len(want), err)
			}
			os.Remove(filepath.Join(dir, "got"))
		})
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(rrq("config.txt", "tsize", "0", "blksize", "1468")))
	f.Add([]byte("\x00\x01x\x00octet\x00blksize"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, bad := parseRequest(b)
		if bad == nil && (r.block < minBlock || r.block > ethernet) {
			t.Fatalf("blocks of %d bytes", r.block)
		}
		if bad != nil && len(bad.encode()) > 1000 {
			t.Fatalf("an error of %d bytes", len(bad.encode()))
		}
		parseAck(b)
	})
}
