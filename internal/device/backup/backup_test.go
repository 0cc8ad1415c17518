package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pikelet-os/pikelet/internal/device/datastore"
	form "github.com/pikelet-os/pikelet/internal/shared/backup"
	"github.com/pikelet-os/pikelet/internal/testing/certtest"
)

const seed = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

// newServer makes the directory of a server as k3s leaves it, with a datastore as
// kine makes it.
func newServer(t testing.TB) Server {
	t.Helper()
	s := Server{Dir: filepath.Join(t.TempDir(), "server"), Seed: seed, Node: "attic", K3s: "v1.34.4+k3s1", Release: "1.7"}
	for name, text := range map[string]string{
		authority: string(certtest.Authority(t)), "token": "K10::server:secret\n",
		"cred/passwd": "secret,server,server\n", "tls/etcd/server-ca.key": "key\n", "static/charts/traefik.tgz": "chart",
		"pikelet/000001-1.6-a/db/state.db": "an older copy", "db/lock": "",
	} {
		name = filepath.Join(s.Dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("token", filepath.Join(s.Dir, "node-token")); err != nil {
		t.Fatal(err)
	}
	db, err := openDatabase(filepath.Join(s.Dir, database), "rwc")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, q := range []string{"PRAGMA journal_mode=WAL", "CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, value BLOB)",
		"INSERT INTO kine (name, value) VALUES ('/bootstrap', 'sealed')"} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func newKey(t testing.TB) *age.X25519Identity {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// backup makes a backup, and returns it decrypted.
func backup(t testing.TB, s Server) []byte {
	t.Helper()
	key := newKey(t)
	var out bytes.Buffer
	if _, err := s.Write(context.Background(), &out, time.Now(), key.Recipient()); err != nil {
		t.Fatal(err)
	}
	return decrypted(t, &out, key)
}

// decrypted returns a backup as Restore reads it.
func decrypted(t testing.TB, sealed io.Reader, key age.Identity) []byte {
	t.Helper()
	r, err := form.Decrypt(sealed, key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// names returns the files below a directory.
func names(t testing.TB, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, name)
			list = append(list, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func newTarget(t testing.TB, name, k3s string) Target {
	return Target{Server: Server{Dir: filepath.Join(t.TempDir(), "server"), Node: name, K3s: k3s}, KeepSeed: func(string) error { return nil },
		Elsewhere: func(string, string) string { return "" }}
}

// highest returns the last row of a datastore.
func highest(t testing.TB, file string) (n int64) {
	t.Helper()
	db, err := openDatabase(file, "ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("SELECT max(id) FROM kine").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestBackupsUnderWrites: of a datastore that is written to all the time, each
// backup is whole and has every row that was acknowledged before it began.
func TestBackupsUnderWrites(t *testing.T) {
	s := newServer(t)
	db, err := openDatabase(filepath.Join(s.Dir, database), "rw")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var acknowledged atomic.Int64
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		value := bytes.Repeat([]byte("a row of the datastore "), 40)
		for ctx.Err() == nil {
			r, err := db.Exec("INSERT INTO kine (name, value) VALUES ('/registry/pods', ?)", value)
			if err != nil {
				ended <- err
				return
			}
			n, _ := r.LastInsertId() // the driver knows it
			acknowledged.Store(n)
		}
		ended <- nil
	}()
	last := int64(0)
	for range 20 {
		for acknowledged.Load() < last+20 {
			select {
			case err := <-ended:
				t.Fatalf("writing to the datastore: %v", err)
			case <-time.After(time.Millisecond):
			}
		}
		last = acknowledged.Load()
		target := newTarget(t, "attic", s.K3s)
		if _, err := target.Restore(ctx, bytes.NewReader(backup(t, s))); err != nil {
			t.Fatal(err)
		}
		if got := highest(t, filepath.Join(datastore.Restored(target.Dir), database)); got < last {
			t.Errorf("the backup ends with row %d, and row %d was acknowledged before", got, last)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, scratch)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s stays behind: %v", scratch, err)
	}
}

// TestRestore: what a backup holds, and what becomes of a server that is there.
func TestRestore(t *testing.T) {
	s, ctx := newServer(t), context.Background()
	b := backup(t, s)
	target := newTarget(t, "new", "v1.34.9+k3s1")
	got := ""
	target.KeepSeed = func(seed string) error { got = seed; return nil }
	info, err := target.Restore(ctx, bytes.NewReader(b))
	if err != nil || got != seed || info.Node != "attic" || info.Release != "1.7" {
		t.Fatalf("got %+v, seed %q, %v", info, got, err)
	}
	if _, err := os.Stat(target.Dir); err == nil {
		t.Error("the server is there before the node restarts")
	}
	if aside, err := datastore.Adopt(target.Dir); err != nil || aside != "" {
		t.Errorf("got %q, %v", aside, err)
	}
	want := []string{"cred/passwd", "db/state.db", restored, "tls/etcd/server-ca.key", authority, "token"}
	if got := names(t, target.Dir); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got files %q, want %q", got, want)
	}
	// Once more it is refused, and does nothing.
	if _, err := target.Restore(ctx, bytes.NewReader(b)); !errors.Is(err, ErrRestored) {
		t.Errorf("got error %v, want %v", err, ErrRestored)
	}
	// A later backup of the same cluster, and one of another, replace it only where asked.
	for _, from := range []Server{s, newServer(t)} {
		other := backup(t, from)
		target.Replace = false
		if _, err := target.Restore(ctx, bytes.NewReader(other)); !errors.Is(err, ErrOccupied) {
			t.Errorf("got error %v, want %v", err, ErrOccupied)
		}
		target.Replace = true
		if _, err := target.Restore(ctx, bytes.NewReader(other)); err != nil {
			t.Error(err)
		}
		aside, err := datastore.Adopt(target.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(aside, authority)); err != nil {
			t.Errorf("what was there is gone: %v", err)
		}
	}
}

// TestRestoreRefuses: what is refused leaves nothing behind.
func TestRestoreRefuses(t *testing.T) {
	s := newServer(t)
	b := backup(t, s)
	empty, other := newServer(t), newServer(t)
	db, err := openDatabase(filepath.Join(empty.Dir, database), "rw")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("DELETE FROM kine"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	// Pages of a datastore that no longer belong together.
	file := filepath.Join(other.Dir, database)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		backup []byte
		change func(*Target)
		want   error
	}{
		"an older Kubernetes":      {b, func(t *Target) { t.K3s = "v1.33.9+k3s1" }, ErrNewer},
		"another identity":         {b, func(t *Target) { t.ConfigSeed = strings.Repeat("ab", 32) }, ErrSeed},
		"a backup that is cut off": {b[:len(b)/2], nil, form.ErrDamaged},
		"an empty datastore":       {backup(t, empty), nil, form.ErrDamaged},
		"a damaged datastore":      {pack(t, s, text[:len(text)/2+100]), nil, form.ErrDamaged},
		"a datastore of others":    {pack(t, s, []byte("no database")), nil, form.ErrDamaged},
	} {
		target := newTarget(t, "attic", s.K3s)
		if c.change != nil {
			c.change(&target)
		}
		if _, err := target.Restore(context.Background(), bytes.NewReader(c.backup)); !errors.Is(err, c.want) {
			t.Errorf("%s: got error %v, want %v", name, err, c.want)
		}
		if left := names(t, filepath.Dir(target.Dir)); len(left) > 0 {
			t.Errorf("%s: %q stay behind", name, left)
		}
	}
	target := newTarget(t, "attic", s.K3s)
	target.ConfigSeed, target.KeepSeed = seed, nil
	if _, err := target.Restore(context.Background(), bytes.NewReader(b)); err != nil {
		t.Errorf("with the same seed in its config: %v", err)
	}
}

// pack packs a server with another datastore.
func pack(t testing.TB, s Server, database []byte) []byte {
	t.Helper()
	key := newKey(t)
	certificate, err := os.ReadFile(filepath.Join(s.Dir, authority))
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := form.ClusterOf(certificate)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := form.NewWriter(&out, form.Info{Node: s.Node, Cluster: cluster, K3s: s.K3s, Datastore: form.SQLite}, key.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{form.Seed: seed, form.Server + authority: string(certificate), form.StateDB: string(database)} {
		if err := w.Add(name, int64(len(text)), strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return decrypted(t, &out, key)
}

// TestWriteRefuses: what is no server of k3s with sqlite.
func TestWriteRefuses(t *testing.T) {
	key := newKey(t)
	write := func(s Server) error {
		_, err := s.Write(context.Background(), io.Discard, time.Now(), key.Recipient())
		return err
	}
	if err := write(Server{Dir: t.TempDir()}); !errors.Is(err, ErrNoServer) {
		t.Errorf("got error %v, want %v", err, ErrNoServer)
	}
	s := newServer(t)
	if err := os.Mkdir(filepath.Join(s.Dir, etcd), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := write(s); !errors.Is(err, ErrEtcd) {
		t.Errorf("got error %v, want %v", err, ErrEtcd)
	}
	s = newServer(t)
	if err := os.Remove(filepath.Join(s.Dir, database)); err != nil {
		t.Fatal(err)
	}
	if err := write(s); err == nil || !strings.Contains(err.Error(), "there is no") {
		t.Errorf("without a datastore: got error %v", err)
	}
}

// TestTwoServers: what would make two servers of one cluster is refused.
func TestTwoServers(t *testing.T) {
	s, ctx := newServer(t), context.Background()
	s.Answers = "10.0.0.1:6443 vip.example:6443"
	target := newTarget(t, "loft", s.K3s)
	target.Answers = "10.0.0.2:6443"
	asked, cluster := "", ""
	target.Elsewhere = func(addresses, of string) string { asked, cluster = addresses, of; return "10.0.0.1:6443" }
	info, err := target.Restore(ctx, bytes.NewReader(backup(t, s)))
	if !errors.Is(err, ErrAnswers) || !strings.Contains(err.Error(), "10.0.0.1:6443") {
		t.Errorf("got error %v, want %v", err, ErrAnswers)
	}
	if asked != s.Answers+" "+target.Answers || cluster != info.Cluster || cluster == "" {
		t.Errorf("asked %q for %q", asked, cluster)
	}
	if left := names(t, filepath.Dir(target.Dir)); len(left) > 0 {
		t.Errorf("%q stay behind", left)
	}
}

// TestLastBackup: the last backup of a move is made of a fenced server alone, says
// so, and is for one node.
func TestLastBackup(t *testing.T) {
	s, ctx := newServer(t), context.Background()
	s.Last = true
	if _, err := s.Write(ctx, io.Discard, time.Now(), newKey(t).Recipient()); !errors.Is(err, ErrNotFenced) {
		t.Errorf("got error %v, want %v", err, ErrNotFenced)
	}
	if _, err := datastore.Fence(s.Dir, datastore.Moved{ID: "01", To: "loft"}); err != nil {
		t.Fatal(err)
	}
	b := backup(t, s)
	other := newTarget(t, "cellar", s.K3s)
	if _, err := other.Restore(ctx, bytes.NewReader(b)); !errors.Is(err, ErrElsewhere) {
		t.Errorf("on another node: got error %v, want %v", err, ErrElsewhere)
	}
	target := newTarget(t, "loft", s.K3s)
	info, err := target.Restore(ctx, bytes.NewReader(b))
	if err != nil || info.Move != "01" || info.To != "loft" {
		t.Fatalf("got %+v, %v", info, err)
	}
	if _, err := datastore.Adopt(target.Dir); err != nil {
		t.Fatal(err)
	}
	if m, err := datastore.Fenced(target.Dir); m != nil || err != nil {
		t.Errorf("the mark moves along: %v, %v", m, err)
	}
	// The node that the server has left takes it back only from where it went.
	left := Target{Server: s, Elsewhere: target.Elsewhere, KeepSeed: target.KeepSeed, Replace: true}
	earlier := s
	earlier.Last = false
	for name, b := range map[string][]byte{"its last backup": b, "another backup": backup(t, earlier)} {
		if _, err := left.Restore(ctx, bytes.NewReader(b)); err == nil {
			t.Errorf("%s is restored where the server has left", name)
		}
	}
	back := Server{Dir: target.Dir, Seed: seed, Node: "loft", K3s: s.K3s, Last: true}
	if _, err := datastore.Fence(back.Dir, datastore.Moved{ID: "02", To: "attic"}); err != nil {
		t.Fatal(err)
	}
	left.Replace = false
	if _, err := left.Restore(ctx, bytes.NewReader(backup(t, back))); err != nil {
		t.Errorf("moving back: %v", err)
	}
}
