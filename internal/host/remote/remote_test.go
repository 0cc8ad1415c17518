package remote

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// fakeSSH puts a program ssh in the place of the real one. It prints its arguments and
// the host keys that it is given, and then does what script says.
func fakeSSH(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	text := `#!/bin/sh
echo "$@"
for a; do case "$a" in GlobalKnownHostsFile=*) a=${a#*=\"}; cat "${a%%\"*}" ;; esac; done
` + script
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		if left, _ := filepath.Glob(dir + "/pikelet-known-*"); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	})
}

// TestRun: ssh gets the host as its user writes it, asks nothing, and takes the host
// keys that are known otherwise, besides those it knows itself.
func TestRun(t *testing.T) {
	fakeSSH(t, "cat\n")
	at := At{Host: "attic", Address: "10.0.0.7", Keys: []string{"ssh-ed25519 AAAA attic", "broken", "ssh-ed25519 BBBB\n* ssh-rsa C"}}
	out, err := SSH{Config: "cfg"}.Run(t.Context(), at, strings.NewReader("the config"), "config", "try")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"-o ConnectTimeout=10 -o ServerAliveInterval=15 -o ControlPath=none -F cfg -o HostName=10.0.0.7 -o GlobalKnownHostsFile=\"",
		"\" /etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2 attic doas /usr/sbin/pikeletd config try\n",
		"\n* ssh-ed25519 AAAA\nthe config",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	out, err = SSH{}.Run(t.Context(), At{Host: "attic"}, nil, "status")
	if want := strings.Join(always, " ") + " attic doas /usr/sbin/pikeletd status\n"; err != nil || string(out) != want {
		t.Errorf("got %q, %v", out, err)
	}
	for _, host := range []string{"", "-oProxyCommand=x"} {
		if _, err := (SSH{}).Run(t.Context(), At{Host: host}, nil, "status"); err == nil || !strings.Contains(err.Error(), "is not a host") {
			t.Errorf("host %q: %v", host, err)
		}
	}
}

// TestRunFails: the message and the advice of the node, without what moves a cursor,
// and whether the node was reached at all.
func TestRunFails(t *testing.T) {
	fakeSSH(t, "printf 'Welcome\\npikeletd: no \\033[31mconfig\\nhint: send one\\n' >&2\nexit 2\n")
	_, err := SSH{}.Run(t.Context(), At{Host: "attic"}, nil, "config", "show")
	e := (*Error)(nil)
	if !errors.As(err, &e) || !e.Unknown() || e.Unreachable() || err.Error() != "no [31mconfig" {
		t.Errorf("got %q", err)
	}
	if h := hint.Of(err); len(h) != 1 || h[0] != "send one" {
		t.Errorf("advice %q", h)
	}
	fakeSSH(t, "exit 255\n")
	_, err = SSH{}.Run(t.Context(), At{Host: "attic"}, nil, "status")
	if !errors.As(err, &e) || !e.Unreachable() || err.Error() != "ssh ended with exit status 255" {
		t.Errorf("got %v", err)
	}
	fakeSSH(t, "head -c 5000000 /dev/zero\n")
	out, err := SSH{}.Run(t.Context(), At{Host: "attic"}, nil, "status")
	if err != nil || len(out) != maxOutput {
		t.Errorf("kept %d bytes, %v", len(out), err)
	}
}
