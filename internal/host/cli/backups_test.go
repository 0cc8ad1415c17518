package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/backup"
)

// TestBackupStores: a backup goes to a store and is listed there, and what restores
// it from a config opens that backup alone.
func TestBackupStores(t *testing.T) {
	dir := t.TempDir()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	whole := madeBackup(t, key)
	write(t, dir+"/bin/ssh", "#!/bin/sh\ncat "+dir+"/made\n", 0o755)
	write(t, dir+"/made", string(whole), 0o600)
	write(t, dir+"/age.key", key.String()+"\n", 0o600)
	nas := dir + "/nas"
	env := []string{"PATH=" + dir + "/bin:" + os.Getenv("PATH"), "HOME=" + dir, "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=",
		"TMPDIR=" + dir}
	run := func(want string, args ...string) string {
		t.Helper()
		out, _ := pikelet(t, dir, env, args...)
		if !strings.Contains(out, want) {
			t.Errorf("%q: no %q in %q", args, want, out)
		}
		return out
	}
	const name = "attic-20261130T030000Z.backup"
	run("mount it", "backup", "attic", "--to", nas, "--identity", "age.key")
	if err := os.Mkdir(nas, 0o700); err != nil {
		t.Fatal(err)
	}
	run(name, "backup", "attic", "--to", nas, "--identity", "age.key")
	run("no age keys in", "backup", "attic", "--to", nas, "--recipient", key.Recipient().String())
	if got, err := os.ReadFile(filepath.Join(nas, name)); err != nil || !bytes.Equal(got, whole) {
		t.Errorf("the store has %d bytes, %v", len(got), err)
	}
	run("attic  2026-11-30T03:00:00Z  0.0  "+name, "backups", nas)
	run(`"name":"`+name+`"`, "backups", nas, "--json")
	run("want a directory such as", "backups", "nas")
	run("set AWS_ACCESS_KEY_ID", "backups", "s3://backups/x", "--endpoint", "http://127.0.0.1:1")
	run("--ssh-key", "backups", "sftp://pi@127.0.0.1/backups")
	run("no age keys in", "restore", "--check", nas+"/"+name)

	out := run("", "restore", nas+"/"+name, "--for-config", "--identity", "age.key", "--json")
	var printed struct{ Result struct{ Name, Key string } }
	if err := json.Unmarshal([]byte(out), &printed); err != nil || printed.Result.Name != name {
		t.Fatalf("got %q, %v", out, err)
	}
	keys, err := provision.LoadKeys(dir + "/age.key")
	if err != nil {
		t.Fatal(err)
	}
	opened, err := keys.Decrypt(printed.Result.Key)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := backup.DecryptWith(bytes.NewReader(whole), opened)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, plain); err != nil {
		t.Error(err)
	}
	if strings.Contains(out, opened) || strings.Contains(out, "AGE-SECRET-KEY") {
		t.Errorf("the key is printed in the clear: %q", out)
	}
	left, err := filepath.Glob(dir + "/pikelet-*")
	if err != nil || len(left) > 0 {
		t.Errorf("%q stay behind, %v", left, err)
	}
}
