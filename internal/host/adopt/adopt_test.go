package adopt

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pikelet-os/pikelet/internal/shared/backup"
	"github.com/pikelet-os/pikelet/internal/testing/certtest"
)

// machine is a directory that looks like a machine with a k3s server, and programs
// that stand in for those that would change the one that the test runs on.
type machine struct {
	t    *testing.T
	root string
	db   *sql.DB // stays open, as that of a k3s that runs
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, root: t.TempDir()}
	server := "var/lib/rancher/k3s/server/"
	for name, text := range map[string]string{
		server + "tls/server-ca.crt": string(certtest.Authority(t)),
		server + "token":             "K10aa::server:hush\n", server + "cred/passwd": "hush,server,server\n",
		server + "manifests/a b.yaml": "kind: Namespace\n", server + "static/charts/traefik.tgz": "chart",
		server + "static/own.txt": "mine", server + "etc/x": "x", server + "db/state.db-shm.old": "x",
		"etc/rancher/k3s/config.yaml": "disable: traefik\n", "proc/sys/kernel/hostname": "Pi-One\n",
		"etc/systemd/system/k3s.service": "[Service]\nExecStart=/usr/local/bin/k3s \\\n    server \\\n\t'--tls-san' \\\n\t'k3s.lan' \\\n",
	} {
		m.write(name, text, 0o600)
	}
	if err := os.Symlink("token", filepath.Join(m.root, server, "node-token")); err != nil {
		t.Fatal(err)
	}
	m.write("bin/k3s", "#!/bin/sh\necho 'k3s version v1.33.4+k3s1 (abc)'\n", 0o755)
	m.write("bin/ip", "#!/bin/sh\necho '2: eth0    inet 10.0.0.10/24 brd'\necho '3: cni0    inet 10.42.0.1/24 brd'\n", 0o755)
	m.write("bin/systemctl", "#!/bin/sh\n[ $1 = cat ] || echo \"$@\" >>"+m.root+"/calls\n", 0o755)
	var err error
	if m.db, err = sql.Open("sqlite", "file:"+m.root+"/"+server+"db/state.db?_pragma=journal_mode(WAL)"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(m.root, server, "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.db.SetMaxOpenConns(1)
	t.Cleanup(func() { m.db.Close() })
	for _, q := range []string{"PRAGMA wal_autocheckpoint=0",
		"CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, deleted INTEGER, value BLOB)",
		"INSERT INTO kine (name, deleted, value) VALUES ('/bootstrap', 0, 'sealed')",
		"INSERT INTO kine (name, deleted) VALUES ('/registry/last', 0)"} {
		if _, err := m.db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m *machine) write(name, text string, mode fs.FileMode) {
	m.t.Helper()
	name = filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		m.t.Fatal(err)
	}
}

// run runs a script as ssh would have it run there.
func (m *machine) run(ctx context.Context, script string, w io.Writer) error {
	cmd := exec.CommandContext(ctx, "sh", "-s")
	cmd.Env = append(os.Environ(), "PATH="+m.root+"/bin:"+os.Getenv("PATH"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(script), w, os.Stderr
	return cmd.Run()
}

func (m *machine) calls() string {
	b, err := os.ReadFile(m.root + "/calls")
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", ", ")
}

func (m *machine) survey() *Server {
	m.t.Helper()
	s, err := Survey(context.Background(), m.run, m.root, DataDir)
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

// copied copies a server, and returns the files of its backup.
func (m *machine) copied(s *Server, stop, leave bool) (backup.Info, map[string][]byte, error) {
	m.t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		m.t.Fatal(err)
	}
	var out bytes.Buffer
	info, _, err := s.Copy(context.Background(), m.run, &out,
		Copying{Node: "pi-one", Spool: m.t.TempDir(), Stop: stop, Leave: leave, Now: time.Unix(1, 0)}, key.Recipient())
	if err != nil {
		return info, nil, err
	}
	plain, err := backup.Decrypt(&out, key)
	if err != nil {
		m.t.Fatal(err)
	}
	files := map[string][]byte{}
	info, err = backup.Extract(plain, func(backup.Info) error { return nil }, func(name string, _ int64, r io.Reader) (err error) {
		files[name], err = io.ReadAll(r)
		return err
	})
	return info, files, err
}

// rows returns how many revisions a copied datastore holds.
func rows(t *testing.T, b []byte) (n int) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+name)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("SELECT count(*) FROM kine").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSurvey(t *testing.T) {
	s := newMachine(t).survey()
	if s.Node != "pi-one" || s.Version != "v1.33.4+k3s1" || s.Init != "systemd" || !s.SQLite || s.Etcd ||
		!slices.Equal(s.Addresses, []string{"10.0.0.10/24"}) || !slices.Equal(s.Static, []string{"own.txt"}) {
		t.Errorf("got %+v", s)
	}
	if got := string(s.Files["etc/rancher/k3s/config.yaml"]); got != "disable: traefik\n" {
		t.Errorf("config.yaml: got %q", got)
	}
}

// TestCopies: all that was acknowledged is in a copy, whatever makes it, and k3s is
// stopped for as long as the copy takes, and only where that was asked for.
func TestCopies(t *testing.T) {
	for name, c := range map[string]struct {
		tool        string
		stop, leave bool
		calls       string
	}{
		"sqlite3 while k3s runs":     {"sqlite3", false, false, ""},
		"python3 while k3s runs":     {"python3", false, false, ""},
		"files of a stopped k3s":     {"", true, false, "stop k3s, start k3s"},
		"k3s that is to stay off":    {"", false, true, "stop k3s"},
		"python3, and k3s stays off": {"python3", false, true, "stop k3s"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(c.tool); c.tool != "" && err != nil {
				t.Skip(err)
			}
			m := newMachine(t)
			s := m.survey()
			s.Tool = c.tool
			info, files, err := m.copied(s, c.stop, c.leave)
			if err != nil {
				t.Fatal(err)
			}
			if !info.Adopted || info.Node != "pi-one" || info.K3s != "v1.33.4+k3s1" {
				t.Errorf("got %+v", info)
			}
			if got := rows(t, files[backup.StateDB]); got != 2 {
				t.Errorf("the copy has %d revisions, want 2", got)
			}
			delete(files, backup.StateDB)
			var names []string
			for name := range files {
				names = append(names, name)
			}
			slices.Sort(names)
			want := []string{"server/cred/passwd", "server/manifests/a b.yaml", "server/tls/server-ca.crt", "server/token"}
			if !slices.Equal(names, want) {
				t.Errorf("got files %q, want %q", names, want)
			}
			if got := m.calls(); got != c.calls {
				t.Errorf("services: got %q, want %q", got, c.calls)
			}
			if left, _ := filepath.Glob(s.dir + "/.pikelet*"); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// TestFailedCopies: a copy that fails leaves k3s running, and no backup.
func TestFailedCopies(t *testing.T) {
	for name, break_ := range map[string]func(m *machine, s *Server){
		"tar fails":           func(m *machine, _ *Server) { m.write("bin/tar", "#!/bin/sh\nexit 1\n", 0o755) },
		"a damaged datastore": func(m *machine, s *Server) { m.db.Close(); m.damage(s) },
		"no certificate":      func(m *machine, s *Server) { os.Remove(s.dir + "/tls/server-ca.crt") },
		"a file that is large": func(m *machine, s *Server) {
			m.write("var/lib/rancher/k3s/server/big", strings.Repeat("x", maxSmall+1), 0o600)
		},
		"a machine that is full": func(m *machine, _ *Server) { m.write("bin/df", "#!/bin/sh\necho h\necho x x x 1 x x\n", 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			s := m.survey()
			s.Tool = ""
			break_(m, s)
			if _, files, err := m.copied(s, true, false); err == nil {
				t.Errorf("no error, %d files", len(files))
			}
			if got := m.calls(); got != "" && got != "stop k3s, start k3s" {
				t.Errorf("services: got %q, want k3s to run", got)
			}
		})
	}
	m := newMachine(t)
	s := m.survey()
	m.write("bin/tar", "#!/bin/sh\nexit 1\n", 0o755)
	if _, _, err := m.copied(s, false, true); err == nil || m.calls() != "stop k3s, start k3s" {
		t.Errorf("--leave-stopped, and a copy that fails: got %v, %q", err, m.calls())
	}
}

// damage puts something else in the place of the datastore's pages.
func (m *machine) damage(s *Server) {
	for _, name := range []string{"state.db", "state.db-wal"} {
		os.Remove(s.dir + "/db/" + name)
	}
	m.write("var/lib/rancher/k3s/server/db/state.db", "SQLite format 3\x00"+strings.Repeat("no page ", 2000), 0o600)
}

func TestServersThatAreRefused(t *testing.T) {
	whole := Server{SQLite: true, Version: "v1.33.4+k3s1", Tool: "sqlite3", Init: "systemd"}
	for name, c := range map[string]struct {
		change func(*Server)
		stop   bool
		want   error
	}{
		"etcd":                {func(s *Server) { s.Etcd = true }, false, ErrEtcd},
		"no server":           {func(s *Server) { s.SQLite = false }, false, ErrNoServer},
		"no k3s":              {func(s *Server) { s.Version = "" }, false, ErrNoServer},
		"nothing that copies": {func(s *Server) { s.Tool = "" }, false, ErrInUse},
		"that, but stopped":   {func(s *Server) { s.Tool = "" }, true, nil},
		"all of it":           {func(*Server) {}, false, nil},
	} {
		s := whole
		c.change(&s)
		if err := s.Check(c.stop); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: got error %v, want %v", name, err, c.want)
		}
	}
}
