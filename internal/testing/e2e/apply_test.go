package e2e

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// apply runs pikelet apply for attic, after text was changed in its inventory, and checks
// the exit status and what is printed.
func (b *firstBoot) apply(old, changed string, status int, want string, more ...string) {
	b.t.Helper()
	text, err := os.ReadFile(b.nodes)
	if err != nil {
		b.t.Fatal(err)
	}
	writeFile(b.t, b.nodes, strings.Replace(string(text), old, changed, 1), 0o600)
	out, err := b.desk(append([]string{"apply", b.nodes, "attic"}, more...)...)
	exit, code := (*exec.ExitError)(nil), 0
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	if code != status || !strings.Contains(out, want) {
		b.t.Errorf("pikelet apply %s: exit status %d, want %d and %q\n%s", strings.Join(more, " "), code, status, want, out)
	}
	if strings.Contains(out, "hush-hush") || strings.Contains(out, b.cfg.Seed) {
		b.t.Errorf("a secret is shown:\n%s", out)
	}
}

// TestWrongAddressComesBack: a node with a wrong address in its config comes back by
// itself; a config with which the desk reaches it stays; one whose boot ends early does
// not.
func TestWrongAddressComesBack(t *testing.T) {
	t.Parallel()
	b := newFirstBoot(t)
	p := b.start("this is a first boot")
	b.anna.must("true")
	b.apply("", "", 0, "attic: same", "--check")

	const serial = "'52617370'"
	const wrong = ", network: {interfaces: [{name: eth0, addresses: [10.0.2.77/24], gateway: 10.0.2.2}]}"
	b.apply(serial, serial+wrong, 3, "- 10.0.2.77/24", "--check")
	b.apply("", "", 3, "attic: rolled back: it was not confirmed within 30s", "--trial", "30s")
	p.expect("this is attic, config from a trial", "the config was not confirmed: restarting into the one before",
		"it was not confirmed within 30s", "this is attic, config from state")
	p.prompt()

	b.apply(wrong, "", 0, "attic: same")
	b.apply("Asia/Tokyo", "Europe/Berlin", 0, "attic: applied")
	p.expect("this is attic, config from a trial")
	b.apply("", "", 0, "attic: same", "--check")
	b.anna.must("grep -q Berlin /etc/timezone && doas pikeletd status | grep 'attic, config from state'")

	b.apply("Europe/Berlin", "Asia/Tokyo", 0, "attic: differs", "--dry-run")
	p.prompt()
	p.works("sed 's/Berlin/Lima/' /var/lib/pikelet/state/node/node.yaml > /tmp/new.yaml")
	p.run("pikeletd config try < /tmp/new.yaml", "this is attic, config from a trial")
	p.prompt()
	p.unplug()
	p = b.start("the one that was tried was left: the node restarted before", "this is attic, config from state")
	p.works("grep Berlin /etc/timezone")
}
