package backup

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/datastore"
	form "github.com/pikelet-os/pikelet/internal/shared/backup"
)

// packAdopted returns the backup of a server that another program ran, decrypted: it
// has no seed, and its cluster knows a node old, and knew a node gone.
func packAdopted(t testing.TB) []byte {
	t.Helper()
	s := newServer(t)
	db, err := openDatabase(filepath.Join(s.Dir, database), "rw")
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{"ALTER TABLE kine ADD COLUMN deleted INTEGER",
		"INSERT INTO kine (name, deleted) VALUES ('/registry/secrets/kube-system/old.node-password.k3s', 0)",
		"INSERT INTO kine (name, deleted) VALUES ('/registry/secrets/kube-system/gone.node-password.k3s', 0)",
		"INSERT INTO kine (name, deleted) VALUES ('/registry/secrets/kube-system/gone.node-password.k3s', 1)",
		"PRAGMA wal_checkpoint(TRUNCATE)"} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	certificate, err := os.ReadFile(filepath.Join(s.Dir, authority))
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := form.ClusterOf(certificate)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	var out bytes.Buffer
	w, err := form.NewWriter(&out, form.Info{Node: "old", Cluster: cluster, K3s: s.K3s, Made: time.Unix(1, 0).UTC(), Datastore: form.SQLite,
		Adopted: true}, key.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{authority, database} {
		if err := add(w, form.Server+name, filepath.Join(s.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return decrypted(t, &out, key)
}

// TestRestoreOfAnAdoptedServer: a node keeps its own identity, and does not take a
// name that k3s would refuse it.
func TestRestoreOfAnAdoptedServer(t *testing.T) {
	b := packAdopted(t)
	for name, want := range map[string]error{"new": nil, "gone": nil, "old": ErrSeed} {
		for _, seed := range []string{"", strings.Repeat("ab", 32)} {
			target := newTarget(t, name, "v1.34.9+k3s1")
			target.ConfigSeed = seed
			target.KeepSeed = func(string) error { t.Errorf("%s: another seed is kept", name); return nil }
			_, err := target.Restore(context.Background(), bytes.NewReader(b))
			if !errors.Is(err, want) || (err == nil) != (want == nil) {
				t.Errorf("%s: got error %v, want %v", name, err, want)
			}
			_, err = os.Stat(filepath.Join(datastore.Restored(target.Dir), database))
			if (err == nil) != (want == nil) {
				t.Errorf("%s: the server is there: %v", name, err == nil)
			}
		}
	}
}
