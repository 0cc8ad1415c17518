// Package adopt takes over a k3s server that Pikelet does not run: it reads its state
// over SSH into a backup that a node restores, and its configuration into an
// inventory. Nothing of Pikelet runs there: sh, tar and what copies SQLite databases do.
package adopt

import (
	"archive/tar"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"filippo.io/age"

	"github.com/pikelet-os/pikelet/internal/shared/backup"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
)

//go:embed survey.sh
var surveyScript string

//go:embed copy.sh
var copyScript string

// DataDir is where k3s keeps its data unless it is told otherwise
// (https://docs.k3s.io/cli/server).
const DataDir = "/var/lib/rancher/k3s"

// What is read at most.
const (
	maxSurvey = 8 << 20   // bytes of all of a survey
	maxSmall  = 4 << 20   // bytes of a file beside the datastore, as in a backup
	maxRest   = 128 << 20 // bytes of all of them
	maxFact   = 255       // bytes of a fact, such as a host name
	maxFacts  = 100       // addresses, and names of files
	maxTail   = 1 << 20   // bytes behind the end of a tar
)

// Errors of taking a server over.
var (
	ErrNoServer = errors.New("there is no k3s server")
	ErrEtcd     = errors.New("the datastore of this server is etcd's")
	ErrExternal = errors.New("the datastore of this server is a database elsewhere")
	ErrInUse    = errors.New("nothing there copies a database that is in use")
)

// Run runs a script of sh, as root, on the server's machine. What it prints goes to w.
type Run func(ctx context.Context, script string, w io.Writer) error

// Server is what a survey tells of a server.
type Server struct {
	Node      string   // the machine's name
	Version   string   // of k3s
	Tool      string   // what copies a database in use: sqlite3, python3; "" for nothing
	Init      string   // systemd, openrc; "" where k3s is no service
	Addresses []string // of the machine, with their prefixes
	Static    []string // names in k3s' static directory that are not its own
	Etcd      bool
	SQLite    bool
	Files     Files // of /etc
	dir       string
}

// quote quotes a text for sh.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// Survey asks what a server is. dataDir is where k3s keeps its data; root is "" but
// for tests, which have a machine's files below a directory. The errors are
// ErrNoServer and those of run.
func Survey(ctx context.Context, run Run, root, dataDir string) (*Server, error) {
	s := &Server{dir: path.Join(root, dataDir, "server"), Files: Files{}}
	script := fmt.Sprintf("root=%s\ndir=%s\n", quote(root), quote(s.dir)) + surveyScript
	if err := stream(ctx, run, script, func(r io.Reader) error { return s.read(tar.NewReader(io.LimitReader(r, maxSurvey))) }); err != nil {
		return nil, err
	}
	return s, nil
}

// stream has a script run, and what it prints be read. The error of reading comes
// first: it ends the script, which fails then too.
func stream(ctx context.Context, run Run, script string, read func(io.Reader) error) error {
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, script, pw)
		pw.CloseWithError(err) // the end of the stream for nil
		done <- err
	}()
	readErr := read(pr)
	if readErr == nil {
		_, readErr = io.Copy(io.Discard, io.LimitReader(pr, maxTail)) // what tar fills its last record with
	}
	pr.CloseWithError(errStopped)
	runErr := <-done
	if readErr != nil && !errors.Is(readErr, runErr) {
		return fmt.Errorf("reading what the server sends: %w", readErr)
	}
	return runErr
}

// errStopped ends a stream that is not read any further.
var errStopped = errors.New("the rest is not read")

func (s *Server) read(r *tar.Reader) error {
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		if name == "facts" {
			s.facts(string(b))
		} else if rest, ok := strings.CutPrefix(name, "root/"); ok {
			s.Files[rest] = b
		}
	}
}

func (s *Server) facts(text string) {
	for _, line := range strings.Split(text, "\n") {
		key, val, _ := strings.Cut(line, " ")
		if len(val) > maxFact || len(s.Addresses)+len(s.Static) > maxFacts || strings.ContainsFunc(val, unicode.IsControl) {
			continue
		}
		switch key {
		case "node":
			s.Node = strings.ToLower(val)
		case "version":
			if _, err := skew.Parse(val); err == nil {
				s.Version = val
			}
		case "tool":
			s.Tool = val
		case "init":
			s.Init = val
		case "address":
			s.Addresses = append(s.Addresses, val)
		case "static":
			s.Static = append(s.Static, val)
		case "etcd":
			s.Etcd = true
		case "sqlite":
			s.SQLite = true
		}
	}
}

// Check reports why a server cannot be copied. stop says that k3s may be stopped.
func (s *Server) Check(stop bool) error {
	switch {
	case s.Etcd:
		return hint.With(ErrEtcd, "k3s etcd-snapshot save makes a snapshot; add Pikelet servers to the cluster one by one, and take the old "+
			"ones away")
	case !s.SQLite:
		return hint.With(fmt.Errorf("%w: no datastore in %s", ErrNoServer, s.dir),
			"name the machine that runs k3s server, and check that it has started once")
	case s.Version == "":
		return hint.With(fmt.Errorf("%w: k3s does not say its version", ErrNoServer), "check that k3s is in /usr/local/bin or in PATH there")
	case stop && s.Init == "":
		return hint.With(errors.New("k3s is no service of systemd or OpenRC there"), "stop it by hand, and adopt the machine without --stop")
	case !stop && s.Tool == "":
		return hint.With(ErrInUse, "install sqlite3 there; or --stop stops k3s for the time of the copy: the API is away meanwhile, and "+
			"pods go on")
	}
	return nil
}

// Copying says how a server is copied.
type Copying struct {
	Node  string    // what the cluster calls it
	Spool string    // a directory for the datastore, which lies there unencrypted
	Stop  bool      // stops k3s for the copy
	Leave bool      // stops k3s, and starts it again only where the copy fails
	Now   time.Time // the time of the copy
}

// Copy reads the state of a server into a backup that the recipients can read. It
// returns what the backup is of, and its files but for the datastore, by their names in
// the server directory.
func (s *Server) Copy(ctx context.Context, run Run, w io.Writer, c Copying, recipients ...age.Recipient,
) (backup.Info, map[string][]byte, error) {
	info := backup.Info{Node: c.Node, K3s: s.Version, Made: c.Now.UTC(), Datastore: backup.SQLite, Adopted: true}
	yes := map[bool]string{true: "yes", false: "no"}
	script := fmt.Sprintf("dir=%s\ntool=%s\ninit=%s\nstop=%s\nleave=%s\n", quote(s.dir), quote(s.Tool), quote(s.Init),
		yes[c.Stop || c.Leave], yes[c.Leave]) + copyScript
	var small map[string][]byte
	err := stream(ctx, run, script, func(r io.Reader) (err error) {
		small, err = readState(tar.NewReader(r), c.Spool)
		return err
	})
	if err != nil {
		return info, nil, err
	}
	if info.Cluster, err = backup.ClusterOf(small["tls/server-ca.crt"]); err != nil {
		return info, nil, err
	}
	database := filepath.Join(c.Spool, stateDB)
	if err := settle(ctx, database); err != nil {
		return info, nil, err
	}
	b, err := backup.NewWriter(w, info, recipients...)
	if err != nil {
		return info, nil, err
	}
	names := make([]string, 0, len(small))
	for name := range small {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := b.Add(backup.Server+name, int64(len(small[name])), strings.NewReader(string(small[name]))); err != nil {
			return info, nil, err
		}
	}
	f, err := os.Open(database)
	if err != nil {
		return info, nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return info, nil, err
	}
	if err := b.Add(backup.StateDB, st.Size(), f); err != nil {
		return info, nil, err
	}
	return info, small, b.Close()
}

// Start starts k3s again, where a copy that left it stopped came to nothing.
func (s *Server) Start(ctx context.Context, run Run) error {
	script := "PATH=$PATH:/usr/sbin:/sbin\nsystemctl start k3s >&2\n"
	if s.Init == "openrc" {
		script = "PATH=$PATH:/usr/sbin:/sbin\nrc-service k3s start >&2\n"
	}
	if err := run(ctx, script, io.Discard); err != nil {
		return hint.With(fmt.Errorf("starting k3s again: %w", err), "k3s is STOPPED there: start it by hand")
	}
	return nil
}

var errOversize = errors.New("a server directory has no such files")

// readState reads the files of a server directory: the datastore into a directory,
// the others into memory.
func readState(r *tar.Reader, spool string) (map[string][]byte, error) {
	small, total := map[string][]byte{}, int64(0)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return small, nil
		}
		if err != nil {
			return nil, err
		}
		name, ok := strings.CutPrefix(path.Clean(h.Name), "server/")
		if !ok || h.Typeflag != tar.TypeReg {
			continue
		}
		switch name {
		case "db/" + stateDB, "db/" + stateDB + "-wal":
			if h.Size > backup.MaxFile {
				return nil, fmt.Errorf("%w: %s has %d bytes", errOversize, name, h.Size)
			}
			if err := writeFile(filepath.Join(spool, path.Base(name)), r); err != nil {
				return nil, err
			}
			continue
		}
		if total += h.Size; h.Size > maxSmall || total > maxRest || len(small) > backup.MaxFiles {
			return nil, hint.With(fmt.Errorf("%w: %s has %d bytes, and all together %d", errOversize, name, h.Size, total),
				"move out of k3s' server directory what you put there")
		}
		if small[name], err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
}

func writeFile(name string, r io.Reader) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
