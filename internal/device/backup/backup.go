// Package backup makes backups of the k3s server of a node, and puts them back.
package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/pikelet-os/pikelet/internal/device/datastore"
	form "github.com/pikelet-os/pikelet/internal/shared/backup"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Names inside k3s' server directory.
const (
	database  = "db/state.db"          // of sqlite
	etcd      = "db/etcd"              // where etcd keeps its data
	authority = "tls/server-ca.crt"    // by which agents know the cluster
	scratch   = "pikelet/backup.part"  // the copy that is being packed
	restored  = datastore.RestoredFile // the backup that this is, where it is one
	spare     = 64 << 20               // bytes that stay free beside the copy: k3s goes on writing
	patience  = "30000"                // milliseconds to wait for k3s' own locks
	pragmas   = "&_pragma=cache_size(-4096)&_pragma=temp_store(1)"
)

// skipped are the parts of the server directory that k3s makes anew, and those that
// are copied in another way.
var skipped = map[string]bool{"db": true, "pikelet": true, "static": true, "etc": true, "logs": true}

// Errors of Write.
var (
	ErrNoServer = errors.New("this node has no k3s server")
	ErrEtcd     = errors.New("the datastore of this server is etcd's")
	// ErrNotFenced is returned where the last backup of a move is wanted of a server
	// that may still start.
	ErrNotFenced = errors.New("this server is not fenced")
)

// Server is the k3s server of a node.
type Server struct {
	Dir     string // k3s' server directory
	Seed    string // of the node's identity, in hex
	Node    string // name
	K3s     string // version, as k3s prints it
	Release string // of the image that runs
	Answers string // as form.Info
	// Last demands that the server is fenced, and makes the last backup of its move.
	// Nothing may write to it.
	Last bool
}

// Write writes a backup of the server, which goes on running, that the recipients
// can read. All that the API server acknowledged before now is in it. The errors
// are ErrNoServer, ErrEtcd and ErrNotFenced, besides those of files.
func (s Server) Write(ctx context.Context, w io.Writer, now time.Time, recipients ...age.Recipient) (form.Info, error) {
	info := form.Info{Node: s.Node, K3s: s.K3s, Release: s.Release, Made: now.UTC(), Datastore: form.SQLite, Answers: s.Answers}
	if s.Last {
		m, err := s.moved()
		if err != nil {
			return info, err
		}
		info.Move, info.To = m.ID, m.To
	}
	certificate, err := os.ReadFile(filepath.Join(s.Dir, authority))
	if errors.Is(err, fs.ErrNotExist) {
		return info, hint.With(ErrNoServer, "back up a node whose config has k3s.role: server, once it has started")
	}
	if err != nil {
		return info, err
	}
	if info.Cluster, err = form.ClusterOf(certificate); err != nil {
		return info, err
	}
	if _, err := os.Stat(filepath.Join(s.Dir, etcd)); err == nil {
		return info, hint.With(ErrEtcd, "k3s makes snapshots of etcd itself: the etcd-snapshot and etcd-s3 options of k3s.options")
	}
	dir := filepath.Join(s.Dir, scratch)
	if err := os.RemoveAll(dir); err != nil {
		return info, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return info, err
	}
	defer os.RemoveAll(dir)
	copied := filepath.Join(dir, "state.db")
	if err := copyDatabase(ctx, copied, filepath.Join(s.Dir, database)); err != nil {
		return info, err
	}
	b, err := form.NewWriter(w, info, recipients...)
	if err != nil {
		return info, err
	}
	if err := s.files(ctx, b, copied); err != nil {
		return info, err
	}
	return info, b.Close()
}

// Fenced returns ErrNotFenced for a server that may start still.
func (s Server) Fenced() error {
	_, err := s.moved()
	return err
}

func (s Server) moved() (*datastore.Moved, error) {
	m, err := datastore.Fenced(s.Dir)
	if err == nil && m == nil {
		err = hint.With(ErrNotFenced, "pikelet move fences it first")
	}
	return m, err
}

// files adds all files to a backup, the copied datastore last.
func (s Server) files(ctx context.Context, b *form.Writer, copied string) error {
	if err := b.Add(form.Seed, int64(len(s.Seed)), strings.NewReader(s.Seed)); err != nil {
		return err
	}
	err := filepath.WalkDir(s.Dir, func(file string, d fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(s.Dir, file)
		switch err := errors.Join(err, relErr, ctx.Err()); {
		case errors.Is(err, fs.ErrNotExist):
			return nil // k3s took it away meanwhile
		case err != nil:
			return err
		case d.IsDir() && skipped[rel]:
			return filepath.SkipDir
		case !d.Type().IsRegular() || strings.HasSuffix(rel, ".tmp"):
			return nil // sockets, and links that k3s makes anew
		}
		if err := add(b, form.Server+filepath.ToSlash(rel), file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading %s: %w", s.Dir, err)
	}
	return add(b, form.StateDB, copied)
}

// add adds a file, as large as it is when it is opened.
func add(b *form.Writer, name, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return b.Add(name, st.Size(), f)
}
