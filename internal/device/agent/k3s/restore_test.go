package k3s

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// TestRestoration: a node without a server restores the one that its config names,
// before k3s could begin another, and once.
func TestRestoration(t *testing.T) {
	dir := t.TempDir()
	r := restoration{server: filepath.Join(dir, "server"), program: filepath.Join(dir, "program"), lock: filepath.Join(dir, "lock"),
		out: io.Discard, log: slog.New(slog.DiscardHandler)}
	script := func(text string) {
		if err := os.WriteFile(r.program, []byte("#!/bin/sh\necho \"$@\" >> "+dir+"/ran\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config := nodeconfig.Restore{Name: "attic-20261130T030000Z.backup", Key: "x"}
	if err := r.run(config); err == nil || !strings.Contains(err.Error(), "this image restores no backups") {
		t.Errorf("without the program: got error %v", err)
	}
	script("exit 1\n")
	if err := r.run(config); err == nil {
		t.Error("k3s starts although nothing was restored")
	}
	script("")
	if err := r.run(config); err == nil {
		t.Error("k3s starts without a server")
	}
	script("mkdir -p " + r.server + ".restored/tls && echo x > " + r.server + ".restored/tls/server-ca.crt\n")
	for range 3 {
		if err := r.run(config); err != nil {
			t.Fatal(err)
		}
	}
	if b, _ := os.ReadFile(dir + "/ran"); string(b) != "fetch\nfetch\nfetch\n" {
		t.Errorf("the program ran %q", b)
	}
	if _, err := os.Stat(r.server + "/tls/server-ca.crt"); err != nil {
		t.Error(err)
	}
	r.server = filepath.Join(dir, "another")
	if err := r.run(nodeconfig.Restore{}); err != nil {
		t.Errorf("without restore in the config: %v", err)
	}
}
