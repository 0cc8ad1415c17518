package vm

import (
	"errors"
	"path/filepath"
	"strings"
)

// Saved is a machine as it was at one moment, in files of a directory. Any
// number of machines can go on from there, each with a card of its own.
type Saved struct {
	// Card is the file of its card. It must not be written to: machines that
	// go on from here use copies.
	Card    string
	dir     string
	output  string // all that was printed until then
	request Request
}

func (s *Saved) file() string { return filepath.Join(s.dir, "machine") }

// Save writes a running machine and its card into an existing directory, and
// ends the machine. Machines that go on from there need the same Options, but
// for Image, Snapshot, Resume, Forward, Console and Log. Save fails when no
// kernel is running, as between two boots.
func (m *Machine) Save(dir string) (*Saved, error) {
	m.mu.Lock()
	control, request := m.control, m.request
	m.mu.Unlock()
	if control == nil {
		return nil, errors.New("saving the machine: QEMU is not running")
	}
	s := &Saved{dir: dir, Card: filepath.Join(dir, "card.img"), request: request}
	if err := control.migrate(s.file()); err != nil {
		return nil, err
	}
	s.output = m.Output()
	if err := CopySparse(m.image, s.Card); err != nil {
		return nil, err
	}
	m.Close()
	return s, nil
}

// resumed waits until a machine that was saved is read, and has it go on. What
// is typed before then is lost: the state of its serial port is still to come.
func (m *Machine) resumed() error {
	var control *qmp
	err := m.Await("it was read from where it was saved", func() bool {
		m.mu.Lock()
		control = m.control
		m.mu.Unlock()
		var status struct{ Status string }
		// It was saved standing still, and is read as such.
		return control != nil && control.execute("query-status", nil, &status) == nil && status.Status == "paused"
	})
	if err != nil {
		return err
	}
	return control.execute("cont", nil, nil)
}

// quoted returns a file name as one word of a shell.
func quoted(name string) string { return "'" + strings.ReplaceAll(name, "'", "'\\''") + "'" }
