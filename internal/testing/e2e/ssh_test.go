package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// sshKey makes a key and returns its file and its public half.
func sshKey(t *testing.T) (file, public string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "id")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	b, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return file, strings.TrimSpace(string(b))
}

// freePort returns a port of loopback that is not in use.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// login is a way into a guest over SSH.
type login struct {
	t         *testing.T
	port      int
	key, host string // files
	user      string
}

// sshTo returns a login that trusts one host key only. bootWith makes the
// guest's SSH reachable.
func sshTo(t *testing.T, user, key, hostKey string) (l login, bootWith func(*vm.Options)) {
	t.Helper()
	l = login{t: t, port: freePort(t), key: key, user: user, host: filepath.Join(t.TempDir(), "known_hosts")}
	if err := os.WriteFile(l.host, []byte(fmt.Sprintf("[127.0.0.1]:%d %s\n", l.port, hostKey)), 0o600); err != nil {
		t.Fatal(err)
	}
	return l, func(o *vm.Options) { o.Forward = map[int]int{l.port: 22} }
}

// run runs a command on the guest. It tries until the server answers.
func (l login) run(command string, options ...string) (string, error) {
	args := append([]string{
		"-F", "/dev/null", "-i", l.key, "-p", fmt.Sprint(l.port), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=" + l.host, "-o", "GlobalKnownHostsFile=/dev/null",
		"-o", "ConnectTimeout=10",
	}, options...)
	args = append(args, l.user+"@127.0.0.1", command)
	for start := time.Now(); ; time.Sleep(500 * time.Millisecond) {
		out, err := exec.Command("ssh", args...).CombinedOutput()
		waiting := slices.ContainsFunc([]string{"Connection closed", "Connection reset", "timed out", "kex_exchange"},
			func(text string) bool { return strings.Contains(string(out), text) })
		if err == nil || !waiting || time.Since(start) > tooLong {
			return string(out), err
		}
	}
}

// must runs a command that has to work, and returns what it said.
func (l login) must(command string) string {
	l.t.Helper()
	out, err := l.run(command)
	if err != nil {
		l.t.Fatalf("%s over SSH: %v\n%s", command, err, out)
	}
	return out
}

// config writes an OpenSSH config in which this login is the host attic, with
// a file of host keys to check against, and more lines.
func (l login) config(knownHosts string, more ...string) string {
	l.t.Helper()
	name := filepath.Join(l.t.TempDir(), "ssh_config")
	text := fmt.Sprintf("Host attic\nHostName 127.0.0.1\nPort %d\nUser %s\nIdentityFile %s\nIdentitiesOnly yes\nUserKnownHostsFile %s\n",
		l.port, l.user, l.key, knownHosts)
	writeFile(l.t, name, text+strings.Join(more, "\n")+"\n", 0o600)
	return name
}
