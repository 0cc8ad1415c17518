package adopt

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"

	device "github.com/pikelet-os/pikelet/internal/device/backup"
	"github.com/pikelet-os/pikelet/internal/device/datastore"
	"github.com/pikelet-os/pikelet/internal/shared/backup"
)

// TestAdoptedServersAreRestored: what is copied from a machine becomes the server of a
// node, as the node itself restores it, and not under the name of the machine.
func TestAdoptedServersAreRestored(t *testing.T) {
	m := newMachine(t)
	const object = "/registry/secrets/kube-system/pi-one.node-password.k3s"
	if _, err := m.db.Exec("INSERT INTO kine (name, deleted) VALUES (?, 0)", object); err != nil {
		t.Fatal(err)
	}
	s := m.survey()
	s.Tool = "" // the files of a k3s that stopped, its write-ahead log among them
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	how := Copying{Node: "pi-one", Spool: t.TempDir(), Leave: true, Now: time.Unix(1, 0)}
	if _, _, err := s.Copy(context.Background(), m.run, &out, how, key.Recipient()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{"pi-one-2": nil, "pi-one": device.ErrSeed} {
		plain, err := backup.Decrypt(bytes.NewReader(out.Bytes()), key)
		if err != nil {
			t.Fatal(err)
		}
		target := device.Target{Server: device.Server{Dir: filepath.Join(t.TempDir(), "server"), Node: name, K3s: "v1.34.4+k3s1"},
			KeepSeed:  func(string) error { return errors.New("a seed of another") },
			Elsewhere: func(string, string) string { return "" }}
		if _, err := target.Restore(context.Background(), plain); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Fatalf("%s: got error %v, want %v", name, err, want)
		}
		if want != nil {
			continue
		}
		if _, err := datastore.Adopt(target.Dir); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"token", "cred/passwd", "tls/server-ca.crt", "manifests/a b.yaml"} {
			got, err := os.ReadFile(filepath.Join(target.Dir, file))
			want, _ := os.ReadFile(filepath.Join(s.dir, file))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: got %q, %v, want %q", file, got, err, want)
			}
		}
		b, err := os.ReadFile(filepath.Join(target.Dir, "db/state.db"))
		if err != nil || rows(t, b) != 3 {
			t.Errorf("the datastore: %d bytes, %v", len(b), err)
		}
	}
}
