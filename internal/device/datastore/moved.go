package datastore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Names inside k3s' server directory: what moves with the directory, and no backup
// holds.
const (
	moved = copies + "/moved.json"
	// RestoredFile says which backup a server comes from, where it does.
	RestoredFile = copies + "/restored.json"
)

// Moved says that a server has moved to another node: this one never starts again.
type Moved struct {
	ID string    `json:"id"` // of the move
	To string    `json:"to"` // the node's name
	At time.Time `json:"at"`
}

// ErrMoved is returned by Fence for a server that has moved to another node.
var ErrMoved = errors.New("this server has moved elsewhere")

// Fence marks a server as moved, and returns its mark when that is on the disk. A
// server that is marked for the same node keeps the mark it has; one for another node
// is ErrMoved.
func Fence(server string, m Moved) (Moved, error) {
	was, err := Fenced(server)
	switch {
	case err != nil:
		return m, err
	case was != nil && was.To != m.To:
		return *was, fmt.Errorf("%w: to %s", ErrMoved, was.To)
	case was != nil:
		return *was, nil
	}
	text, err := json.Marshal(m)
	if err != nil {
		return m, err
	}
	if err := os.MkdirAll(filepath.Join(server, copies), 0o700); err != nil {
		return m, err
	}
	name := filepath.Join(server, moved)
	if err := writeFile(name+part, append(text, '\n')); err != nil {
		return m, err
	}
	return m, rename(name+part, name)
}

// Fenced returns the mark of a server that has moved; nil for one that has not. A
// mark that cannot be read is an error: such a server must not start either.
func Fenced(server string) (*Moved, error) {
	name := filepath.Join(server, moved)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m := &Moved{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("reading %s: no mark of a move: %w", name, err)
	}
	if m.ID == "" {
		return nil, fmt.Errorf("reading %s: no mark of a move: it has no id", name)
	}
	return m, nil
}

// Unfence removes the mark.
func Unfence(server string) error {
	name := filepath.Join(server, moved)
	err := os.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, syncDirs(filepath.Dir(name)))
}

// Discard removes all of a server that has moved but its mark.
func Discard(server string) error {
	if m, err := Fenced(server); m == nil {
		return errors.Join(errors.New("discarding the server: it has not moved"), err)
	}
	entries, err := os.ReadDir(server)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != copies {
			err = errors.Join(err, os.RemoveAll(filepath.Join(server, e.Name())))
		}
	}
	inside, readErr := os.ReadDir(filepath.Join(server, copies))
	for _, e := range inside {
		if e.Name() != filepath.Base(moved) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(server, copies, e.Name())))
		}
	}
	return errors.Join(err, readErr, syncDirs(server))
}

// Drop takes back Prepare, where Adopt has not come yet.
func Drop(server string) error {
	// Renamed first: what is half removed must not be adopted.
	gone := Restored(server) + part
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	if err := rename(Restored(server), gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return os.RemoveAll(gone)
}

// Next returns the directory of the server that starts next: the restored one, where
// there is one.
func Next(server string) string {
	if exists(Restored(server)) {
		return Restored(server)
	}
	return server
}

// Origin is what a restored server must know of the one it comes from.
type Origin struct {
	Answers string `json:"answers"` // where that answered, as HOST:PORT, separated by blanks
}

// OriginOf returns the origin of a server; the zero value for one that was not
// restored.
func OriginOf(dir string) (o Origin, err error) {
	b, err := os.ReadFile(filepath.Join(dir, RestoredFile))
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err != nil {
		return o, err
	}
	return o, json.Unmarshal(b, &o)
}
