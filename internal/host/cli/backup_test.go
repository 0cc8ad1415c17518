package cli

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pikelet-os/pikelet/internal/shared/backup"
)

// madeBackup returns a backup that a key opens.
func madeBackup(t *testing.T, key *age.X25519Identity) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := backup.NewWriter(&out, backup.Info{Node: "attic", Cluster: "sha256:0123", Made: time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC),
		K3s: "v1.34.4+k3s1", Datastore: backup.SQLite}, key.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{backup.Seed, backup.StateDB} {
		if err := w.Add(name, 4, strings.NewReader("text")); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestBackupAndRestore: what comes from a node is a file only when it is whole, and
// what goes to one is whole before the first byte of it is sent.
func TestBackupAndRestore(t *testing.T) {
	dir := t.TempDir()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	whole := madeBackup(t, key)
	// The node sends the file made, and keeps what it is sent in got.
	write(t, dir+"/bin/ssh", "#!/bin/sh\ncd "+dir+"\necho \"$@\" > args\ncase $* in\n*write*) cat made; exit \"$(cat status)\";;\n"+
		"*restore*) cat > got;;\nesac\n", 0o755)
	write(t, dir+"/age.key", key.String()+"\n", 0o600)
	path := "PATH=" + dir + "/bin:" + os.Getenv("PATH")
	run := func(made []byte, status string, args ...string) (string, int) {
		t.Helper()
		for _, name := range []string{"args", "got", "a.backup"} {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		write(t, dir+"/made", string(made), 0o600)
		write(t, dir+"/status", status, 0o600)
		return pikelet(t, dir, []string{path}, args...)
	}
	exists := func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	}
	for name, c := range map[string]struct {
		made   []byte
		status string
		args   []string
		want   string
		file   bool
	}{
		"whole":             {whole, "0", []string{"--identity", "age.key"}, "attic, cluster sha256:0123", true},
		"cut off":           {whole[:len(whole)-1], "0", []string{"--identity", "age.key"}, "the backup is damaged", false},
		"nothing":           {nil, "0", []string{"--identity", "age.key"}, "the backup is damaged", false},
		"ssh that fails":    {whole, "1", []string{"--identity", "age.key"}, "backing up attic: exit status 1", false},
		"keys of others":    {whole, "0", []string{"--recipient", key.Recipient().String()}, "was not read back", true},
		"no key":            {whole, "0", nil, "no key to encrypt the backup to", false},
		"no key to be read": {whole, "0", []string{"--identity", "none"}, "none: no such file", false},
	} {
		out, _ := run(c.made, c.status, append([]string{"backup", "attic", "-o", "a.backup"}, c.args...)...)
		if !strings.Contains(out, c.want) {
			t.Errorf("%s: no %q in %q", name, c.want, out)
		}
		if exists("a.backup") != c.file || exists("a.backup.part") {
			t.Errorf("%s: the file is there: %v, want %v; a part of it: %v", name, !c.file, c.file, exists("a.backup.part"))
		}
	}
	args := []string{"restore", "b.backup", "attic", "--identity", "age.key", "--replace"}
	write(t, dir+"/b.backup", string(whole[:len(whole)-1]), 0o600)
	if out, status := run(nil, "0", args...); status == 0 || exists("got") {
		t.Errorf("a damaged backup is sent: %q", out)
	}
	write(t, dir+"/b.backup", string(whole), 0o600)
	if out, status := run(nil, "0", args...); status != 0 {
		t.Fatalf("restoring: %s", out)
	}
	sent, err := os.ReadFile(dir + "/got")
	if err != nil {
		t.Fatal(err)
	}
	all := func(backup.Info) error { return nil }
	if i, err := backup.Extract(bytes.NewReader(sent), all, func(_ string, _ int64, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	}); err != nil || i.Node != "attic" {
		t.Errorf("what the node is sent: %+v, %v", i, err)
	}
	if got, _ := os.ReadFile(dir + "/args"); string(got) != "attic doas /usr/sbin/pikeletd backup restore --replace\n" {
		t.Errorf("got arguments of ssh %q", got)
	}
	if out, status := run(nil, "0", "restore", "b.backup", "attic"); status == 0 || !strings.Contains(out, "--identity") {
		t.Errorf("without a key: got status %d, %q", status, out)
	}
	if out, status := run(nil, "0", "restore", "--check", "b.backup", "--identity", "age.key"); status != 0 || exists("args") {
		t.Errorf("--check: got status %d, %q", status, out)
	}
}
