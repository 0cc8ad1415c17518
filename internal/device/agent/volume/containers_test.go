package volume

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startContainer starts a shell that stands for a container's process and
// returns it when its traps are set.
func startContainer(t *testing.T, script string) *exec.Cmd {
	t.Helper()
	c := exec.Command("sh", "-c", script+"; echo ready; while :; do read x; done")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait(); in.Close() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("got %q, %v, want ready", line, err)
	}
	return c
}

// fakeCgroup makes a cgroup's files: a pod below kubepods with one process.
func fakeCgroup(t *testing.T, pid int) (root, kill string) {
	t.Helper()
	root = t.TempDir()
	pod := filepath.Join(root, "kubepods", "burstable", "pod1")
	if err := os.MkdirAll(pod, 0o755); err != nil {
		t.Fatal(err)
	}
	kill = filepath.Join(root, "kubepods", "cgroup.kill")
	for name, text := range map[string]string{kill: "", filepath.Join(pod, "cgroup.procs"): fmt.Sprintf("0\n%d\n", pid)} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root, kill
}

func TestEndContainersSendsSIGTERMFirst(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "term")
	c := startContainer(t, "trap 'echo ended >"+mark+"; exit 0' TERM")
	root, kill := fakeCgroup(t, c.Process.Pid)
	var out strings.Builder
	endContainers(root, time.Minute, &out)
	if b, err := os.ReadFile(mark); err != nil || string(b) != "ended\n" {
		t.Errorf("what the container wrote on SIGTERM: got %q, %v", b, err)
	}
	if b, err := os.ReadFile(kill); err != nil || string(b) != "1" {
		t.Errorf("cgroup.kill: got %q, %v, want 1", b, err)
	}
	if out.Len() > 0 {
		t.Errorf("got %q, want nothing said", out.String())
	}
}

func TestEndContainersKillsAfterGrace(t *testing.T) {
	c := startContainer(t, "trap '' TERM")
	root, kill := fakeCgroup(t, c.Process.Pid)
	var out strings.Builder
	endContainers(root, 10*time.Millisecond, &out)
	if b, err := os.ReadFile(kill); err != nil || string(b) != "1" {
		t.Errorf("cgroup.kill: got %q, %v, want 1", b, err)
	}
	if !strings.Contains(out.String(), "did not end within 10ms") {
		t.Errorf("got %q, want what was killed and after how long", out.String())
	}
}

func TestEndContainersWithoutPods(t *testing.T) {
	start := time.Now()
	endContainers(t.TempDir(), time.Hour, io.Discard)
	if d := time.Since(start); d > time.Minute {
		t.Errorf("waited %v, want no wait", d)
	}
}
