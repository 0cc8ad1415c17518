package program

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"filippo.io/age"

	"github.com/pikelet-os/pikelet/internal/testing/certtest"
)

// TestMain lets the test binary stand in for pikelet-backup, and for what decrypts.
func TestMain(m *testing.M) {
	switch os.Getenv("BE") {
	case "backup":
		os.Exit(Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	case "decrypt":
		id, err := age.ParseX25519Identity(os.Getenv("SECRET"))
		var r io.Reader
		if err == nil {
			r, err = age.Decrypt(os.Stdin, id)
		}
		if err == nil {
			_, err = io.Copy(os.Stdout, r)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestMoveOfANode: the verbs of a move as a computer calls them, on the paths of a
// node, in namespaces that have no more of this machine than its programs.
func TestMoveOfANode(t *testing.T) {
	if testing.Short() || os.Getuid() != 0 {
		t.Skip("it needs root, for namespaces")
	}
	files := t.TempDir()
	for name, text := range map[string]string{
		"tls/server-ca.crt": string(certtest.Authority(t)), "token": "K10::server:secret\n",
		"db/lock": "",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(files, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(files, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	db, err := sql.Open("sqlite", filepath.Join(files, "db/state.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{"CREATE TABLE kine (id INTEGER PRIMARY KEY, name TEXT)", "INSERT INTO kine (name) VALUES ('x')"} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("testdata/move.sh")
	if err != nil {
		t.Fatal(err)
	}
	// A process namespace of its own: the restart that ends a restoration goes to its
	// first process, and must not reach this machine's.
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "sh", "-x", "-c", string(script))
	cmd.Env = append(os.Environ(), "FILES="+files, "BINARY="+os.Args[0], "KEY="+id.Recipient().String(), "SECRET="+id.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
