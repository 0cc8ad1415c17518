package vm

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"os"
	"sync"
)

// qmp is the host's end of QEMU's control socket. The exit code of QEMU is 0
// for a poweroff and for a reset alike, and the event SHUTDOWN alone says which
// it was.
type qmp struct {
	path     string
	listener net.Listener
	done     chan struct{}

	mu      sync.Mutex
	why     string
	conn    net.Conn
	answers chan json.RawMessage // to what ask asks
}

func listenQMP(path string) (*qmp, error) {
	os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	q := &qmp{path: path, listener: l, done: make(chan struct{}), answers: make(chan json.RawMessage, 8)}
	go q.read()
	return q, nil
}

func (q *qmp) read() {
	defer close(q.done)
	c, err := q.listener.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	q.mu.Lock()
	q.conn = c
	q.mu.Unlock()
	if _, err := io.WriteString(c, `{"execute":"qmp_capabilities"}`+"\n"); err != nil {
		return
	}
	sc := bufio.NewScanner(c)
	for sc.Scan() {
		var event struct {
			Event  string
			Data   struct{ Reason string }
			Return json.RawMessage
		}
		if json.Unmarshal(sc.Bytes(), &event) != nil {
			continue
		}
		if event.Event == "SHUTDOWN" {
			q.mu.Lock()
			q.why = event.Data.Reason
			q.mu.Unlock()
		}
		if len(event.Return) > 2 { // {} is the answer to what asks for nothing
			select {
			case q.answers <- event.Return:
			default:
			}
		}
	}
}

// reset presses the reset button.
func (q *qmp) reset() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.conn != nil {
		io.WriteString(q.conn, `{"execute":"system_reset"}`+"\n") // a machine that has just ended needs none
	}
}

// cardWrites returns how many writes to the card QEMU has seen since it
// started.
func (q *qmp) cardWrites() (int64, error) {
	q.mu.Lock()
	conn := q.conn
	q.mu.Unlock()
	if conn == nil {
		return 0, nil
	}
	if _, err := io.WriteString(conn, `{"execute":"query-blockstats"}`+"\n"); err != nil {
		return 0, err
	}
	select {
	case b := <-q.answers:
		var list []struct {
			Stats struct {
				Writes int64 `json:"wr_operations"`
			}
		}
		err := json.Unmarshal(b, &list)
		var n int64
		for _, d := range list {
			n = max(n, d.Stats.Writes)
		}
		return n, err
	case <-q.done:
		return 0, net.ErrClosed
	}
}

// reason returns why QEMU ended. It waits for the socket's end, which is
// QEMU's.
func (q *qmp) reason() string {
	q.listener.Close()
	<-q.done
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.why
}

func (q *qmp) close() { q.listener.Close() }
