package etc

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// newKey makes a key pair with ssh-keygen, and returns the private one's file
// and the public one's line.
func newKey(t *testing.T, args ...string) (file, line string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "key")
	out, err := exec.Command("ssh-keygen", append([]string{"-q", "-N", "", "-C", "anna@desk", "-f", file, "-t"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	b, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return file, strings.TrimSpace(string(b))
}

// login runs a command over SSH at the image's own dropbear, with the account's
// authorized_keys, and returns what the command prints.
func login(t *testing.T, files tree, key, authorized string) (string, error) {
	t.Helper()
	home := filepath.Join(string(files), "home")
	files.write(t, "home/.ssh/authorized_keys", authorized)
	files.write(t, "etc/passwd", fmt.Sprintf("anna:x:%d:%d::%s:/bin/sh\n", os.Getuid(), os.Getgid(), home))
	files.write(t, "etc/shells", "/bin/sh\n")
	in := input(t, "", everything...)
	host := files.write(t, "host_key", string(in.Identity.DropbearKey()))
	known := files.write(t, "known_hosts", "node "+in.Identity.PublicKey()+"\n")
	port := serveOne(t, files.command("usr/sbin/dropbear", "-i", "-E", "-s", "-r", host))
	cmd := exec.Command("ssh", "-F", "/dev/null", "-T", "-i", key, "-p", strconv.Itoa(port), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "ConnectTimeout=60", "-o", "UserKnownHostsFile="+known, "-o", "StrictHostKeyChecking=yes", "-o", "HostKeyAlias=node",
		"anna@127.0.0.1", "echo ran")
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, complaints.String())
	}
	return string(out), err
}

// serveOne hands one connection to a server, as inetd does, and returns the port
// that it is accepted on.
func serveOne(t *testing.T, server []string) int {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.AcceptTCP()
		if err != nil {
			return // the wait ended
		}
		defer conn.Close()
		file, err := conn.File()
		if err != nil {
			t.Error(err)
			return
		}
		defer file.Close()
		cmd := exec.Command(server[0], server[1:]...)
		var complaints strings.Builder
		cmd.Stdin, cmd.Stdout, cmd.Stderr = file, file, &complaints
		if err := cmd.Run(); err != nil {
			t.Logf("%v: %s", err, complaints.String()) // also where the client hangs up
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr).Port
}

// TestLoginAtDropbear logs in with each kind of key that a config may have, by
// the host key and the authorized_keys that are written. Keys in hardware
// (sk-...) need a token to log in with.
func TestLoginAtDropbear(t *testing.T) {
	files := unpack(t, "dropbear", "libc6", "libgcc-s1", "libcrypt1", "libgmp10", "libtomcrypt1", "libtommath1", "zlib1g")
	mine, line := newKey(t, "ed25519")
	ecdsa256, line256 := newKey(t, "ecdsa", "-b", "256")
	ecdsa384, line384 := newKey(t, "ecdsa", "-b", "384")
	ecdsa521, line521 := newKey(t, "ecdsa", "-b", "521")
	rsa, lineRSA := newKey(t, "rsa", "-b", "2048")
	for name, c := range map[string]struct {
		key   string
		lines []string
		want  string
	}{
		"ed25519":               {mine, []string{line}, "ran\n"},
		"without a comment":     {mine, []string{strings.TrimSuffix(line, " anna@desk")}, "ran\n"},
		"ecdsa, 256 bits":       {ecdsa256, []string{line256}, "ran\n"},
		"ecdsa, 384 bits":       {ecdsa384, []string{line384}, "ran\n"},
		"ecdsa, 521 bits":       {ecdsa521, []string{line521}, "ran\n"},
		"rsa":                   {rsa, []string{lineRSA}, "ran\n"},
		"the last of several":   {mine, []string{lineRSA, line256, line}, "ran\n"},
		"a command":             {mine, []string{`command="echo \"a,b\"" ` + line}, "\"a,b\"\n"},
		"a command with blanks": {mine, []string{`command="echo 'a, b'" ` + line}, "a, b\n"},
		"several options":       {mine, []string{`no-port-forwarding,command="echo forced",no-pty ` + line}, "forced\n"},
		"permitopen, restrict":  {mine, []string{`restrict,permitopen="10.0.0.1:80" ` + line}, "ran\n"},
	} {
		var file string
		written, problems := Files(Input{Config: &nodeconfig.Config{Users: []nodeconfig.User{{Name: "anna", Keys: c.lines}}}, Root: root()})
		for _, f := range written {
			if f.Path == "/home/anna/.ssh/authorized_keys" {
				file = f.Content
			}
		}
		quoted := make([]string, len(c.lines))
		for i, l := range c.lines {
			quoted[i] = strings.ReplaceAll(l, "'", "''")
		}
		text := "users: [{name: anna, keys: ['" + strings.Join(quoted, "', '") + "']}]"
		if _, err := nodeconfig.Parse("n.yaml", []byte(text)); err != nil || len(problems) > 0 {
			t.Errorf("%s: %v, %q", name, err, problems)
		}
		if got, err := login(t, files, c.key, file); err != nil || got != c.want {
			t.Errorf("%s: got %q, want %q (%v)", name, got, c.want, err)
		}
	}
	// What a config refuses, dropbear refuses.
	for name, authorized := range map[string]string{
		"another key": line256, "from=": `from="0.0.0.0/0" ` + line, "two blanks": strings.Replace(line, " ", "  ", 1),
		"blanks between escaped quotes": `command="echo \"a, b\"" ` + line, "pty": "pty " + line,
		"expiry-time=": `expiry-time="20990101" ` + line,
	} {
		if got, err := login(t, files, mine, authorized+"\n"); err == nil || !strings.Contains(err.Error(), "Permission denied") {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}
