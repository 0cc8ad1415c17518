package rig

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestPauseProgram: the program waits, and ends at SIGTERM.
func TestPauseProgram(t *testing.T) {
	if testing.Short() {
		t.Skip("QEMU runs the program, which make check does without")
	}
	name := filepath.Join(t.TempDir(), "pause")
	if err := os.WriteFile(name, pauseProgram(), 0o755); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("qemu-aarch64-static", name)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case err := <-ended:
		t.Fatalf("the program did not wait: %v", err)
	case <-time.After(time.Second):
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the program ended with %v, want status 0", err)
	}
}
