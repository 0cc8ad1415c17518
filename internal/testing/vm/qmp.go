package vm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
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
	ready    chan struct{} // closed when commands are taken
	done     chan struct{}

	mu      sync.Mutex
	why     string
	conn    net.Conn
	last    int // id of the last command
	answers map[int]chan answer
}

// answer is what QEMU says to a command.
type answer struct {
	Return json.RawMessage
	Error  *struct{ Desc string }
}

func listenQMP(path string) (*qmp, error) {
	os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	q := &qmp{path: path, listener: l, ready: make(chan struct{}), done: make(chan struct{}), answers: map[int]chan answer{}}
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
	if _, err := io.WriteString(c, `{"execute":"qmp_capabilities"}`+"\n"); err != nil {
		return
	}
	q.mu.Lock()
	q.conn = c
	q.mu.Unlock()
	close(q.ready)
	sc := bufio.NewScanner(c)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var message struct {
			answer
			ID    int
			Event string
			Data  struct{ Reason string }
		}
		if json.Unmarshal(sc.Bytes(), &message) != nil {
			continue
		}
		q.mu.Lock()
		if message.Event == "SHUTDOWN" {
			q.why = message.Data.Reason
		}
		waits := q.answers[message.ID]
		delete(q.answers, message.ID)
		q.mu.Unlock()
		if waits != nil {
			waits <- message.answer
		}
	}
}

// execute runs a command and decodes what it returns into result, unless that
// is nil. It fails with net.ErrClosed when QEMU ends before it answers.
func (q *qmp) execute(command string, arguments, result any) error {
	select {
	case <-q.ready:
	case <-q.done:
		return net.ErrClosed
	}
	waits := make(chan answer, 1)
	q.mu.Lock()
	q.last++
	text, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int    `json:"id"`
	}{command, arguments, q.last})
	if err == nil {
		q.answers[q.last] = waits
		_, err = q.conn.Write(append(text, '\n'))
	}
	q.mu.Unlock()
	if err != nil {
		return err
	}
	var a answer
	select {
	case a = <-waits:
	case <-q.done:
		return net.ErrClosed
	}
	switch {
	case a.Error != nil:
		return fmt.Errorf("QEMU: %s: %s", command, a.Error.Desc)
	case result == nil:
		return nil
	}
	return json.Unmarshal(a.Return, result)
}

// reset presses the reset button.
func (q *qmp) reset() error { return q.execute("system_reset", nil, nil) }

// blocks counts what a machine asked of its disks.
type blocks struct{ reads, writes int64 }

// blocks returns the counts of the busiest disk since QEMU started.
func (q *qmp) blocks() (b blocks, err error) {
	var list []struct {
		Stats struct {
			Reads  int64 `json:"rd_operations"`
			Writes int64 `json:"wr_operations"`
		}
	}
	err = q.execute("query-blockstats", nil, &list)
	for _, d := range list {
		b.reads, b.writes = max(b.reads, d.Stats.Reads), max(b.writes, d.Stats.Writes)
	}
	return b, err
}

// migrate writes the machine's memory and devices into a file. The machine
// stands still from then on.
func (q *qmp) migrate(file string) error {
	if err := q.execute("stop", nil, nil); err != nil {
		return err
	}
	if err := q.execute("migrate-set-parameters", map[string]int64{"max-bandwidth": 64 << 30}, nil); err != nil {
		return err
	}
	if err := q.execute("migrate", map[string]string{"uri": "exec:cat >" + quoted(file)}, nil); err != nil {
		return err
	}
	for {
		var state struct {
			Status string
			Desc   string `json:"error-desc"`
		}
		if err := q.execute("query-migrate", nil, &state); err != nil {
			return err
		}
		switch state.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return errors.New("QEMU: saving the machine " + state.Status + ": " + state.Desc)
		}
		pause()
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

// CardWrites returns how many writes to the card there were since the machine
// was started, over all its boots.
func (m *Machine) CardWrites() int64 {
	m.mu.Lock()
	control, before := m.control, m.writes
	m.mu.Unlock()
	if control == nil {
		return before
	}
	b, err := control.blocks()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil || m.control != control {
		return m.writes // it has just ended
	}
	m.ofThis = max(m.ofThis, b.writes)
	return m.writes + m.ofThis
}
