package etc

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

var update = flag.Bool("update", false, "write the golden files")

const seed = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

func root(names ...string) fstest.MapFS {
	fs := fstest.MapFS{
		"etc/passwd":  {Data: []byte("root:x:0:0:root:/root:/bin/sh\n")},
		"etc/group":   {Data: []byte("root:x:0:root\n")},
		"etc/shadow":  {Data: []byte("root:*::0:::::\n")},
		"etc/inittab": {Data: []byte("::sysinit:/sbin/openrc sysinit\n")},
	}
	for _, n := range names {
		fs[n] = &fstest.MapFile{}
	}
	return fs
}

func input(t *testing.T, text string, has ...string) Input {
	t.Helper()
	cfg, err := nodeconfig.Parse("n.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	name := cfg.Hostname
	if name == "" {
		name = "lab-1"
	}
	id, err := node.NewIdentity(name, seed)
	if err != nil {
		t.Fatal(err)
	}
	return Input{Config: cfg, Identity: id, Root: root(has...), Feeder: 77, Consoles: []string{"ttyAMA0", "tty1"}}
}

func text(files []File, problems []string) string {
	var b strings.Builder
	for _, f := range files {
		if f.Link != "" {
			fmt.Fprintf(&b, "== %s -> %s\n", f.Path, f.Link)
			continue
		}
		content := f.Content
		if strings.Contains(content, "\x00") {
			content = fmt.Sprintf("%x\n", content)
		}
		fmt.Fprintf(&b, "== %s %v %d\n%s", f.Path, f.Mode, f.UID, content)
	}
	for _, p := range problems {
		fmt.Fprintf(&b, "PROBLEM %s\n", p)
	}
	return b.String()
}

var everything = []string{"usr/bin/doas", "usr/sbin/dropbear", "usr/sbin/sshd", "usr/sbin/chronyd", "sbin/iscsid",
	"etc/init.d/pikelet-k3s", "etc/init.d/pikelet-rollout", "etc/init.d/pikelet-backup",
	"usr/share/zoneinfo/Europe/Berlin", "sbin/wpa_supplicant"}

// TestGolden: all that a config with every field makes of /etc, as text.
func TestGolden(t *testing.T) {
	full, err := os.ReadFile("../../shared/nodeconfig/testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]Input{
		"full":  input(t, string(full), everything...),
		"empty": input(t, "", everything...),
		"bare":  input(t, string(full)), // an image that has nothing of it
	} {
		got := text(Files(in))
		file := "testdata/" + name + ".txt"
		if *update {
			if err := os.MkdirAll("testdata", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil || string(want) != got {
			t.Errorf("%s is not what the config makes (%v); -update writes it anew. Got\n%s", file, err, got)
		}
	}
}

// TestWrittenIsListed: apk audit in the image must know of every file of /etc
// that a boot may change.
func TestWrittenIsListed(t *testing.T) {
	full, err := os.ReadFile("../../shared/nodeconfig/testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	in := input(t, string(full), everything...)
	in.Config.Files = nil
	files, _ := Files(in)
	seen := map[string]bool{"/etc/motd": true} // prepare's own
	for _, f := range files {
		seen[f.Path] = true
		if strings.HasPrefix(f.Path, "/etc/") && !f.Mode.IsDir() && !strings.HasPrefix(f.Path, "/etc/runlevels/") &&
			!slices.Contains(node.Written(), f.Path) {
			t.Errorf("%s is written and node.Written does not list it", f.Path)
		}
	}
	for _, name := range node.Written() {
		if !seen[name] {
			t.Errorf("node.Written lists %s, which nothing writes", name)
		}
	}
}

func TestSecretsAreForRootOnly(t *testing.T) {
	full, err := os.ReadFile("../../shared/nodeconfig/testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	in := input(t, string(full), everything...)
	files, _ := Files(in)
	secrets := append(in.Config.Secrets(), nodeconfig.Secret{Field: "node password", Value: &in.Identity.NodePassword})
	for _, f := range files {
		for _, s := range secrets {
			if strings.Contains(f.Content, *s.Value) && (f.Mode == 0 || f.Mode.Perm()&0o077 != 0) { // 0 means 0644
				t.Errorf("%s holds %s and has mode %v", f.Path, s.Field, f.Mode)
			}
		}
	}
}

// TestFilesGoToTheirOwner: also where an account before it was left alone.
func TestFilesGoToTheirOwner(t *testing.T) {
	const key = "keys: ['ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAybm0CJp03lfWCx6KDH+bSOjkyF0vEOKCcIp0ekn+0K']"
	in := input(t, "users: [{name: chronyd, "+key+"}, {name: anna, "+key+"}, {name: eve, "+key+"}]\n"+
		"files: [{path: /home/anna/x, owner: anna, secret: true}, {path: /etc/y, owner: chronyd}]")
	in.Root.(fstest.MapFS)["etc/passwd"].Data = []byte("chronyd:x:300:300::/:/sbin/nologin\n")
	files, problems := Files(in)
	uids := map[string]int{}
	for _, f := range files {
		uids[f.Path] = f.UID
	}
	if uids["/home/anna"] != firstUID || uids["/home/anna/x"] != firstUID || uids["/home/eve"] != firstUID+1 || uids["/etc/y"] != 0 ||
		len(problems) != 2 {
		t.Errorf("owners %v, problems %q", uids, problems)
	}
}

// TestAccountsOfTheImageStay: a config cannot take over an account.
func TestAccountsOfTheImageStay(t *testing.T) {
	in := input(t, "users: [{name: chronyd, keys: ['ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAybm0CJp03lfWCx6KDH+bSOjkyF0vEOKCcIp0ekn+0K']}]")
	in.Root.(fstest.MapFS)["etc/passwd"].Data = []byte("root:x:0:0::/root:/bin/sh\nchronyd:x:300:300::/:/sbin/nologin\n")
	files, problems := Files(in)
	if len(problems) != 1 || !strings.Contains(problems[0], "chronyd is an account of the image already") {
		t.Errorf("%q", problems)
	}
	for _, f := range files {
		if f.Path == "/etc/passwd" || strings.Contains(f.Path, "authorized_keys") {
			t.Errorf("%s is written", f.Path)
		}
	}
}

// TestRolloutsRunOnServers: the controller of rollouts is a service of servers alone,
// and of images that bring it.
func TestRolloutsRunOnServers(t *testing.T) {
	for _, c := range []struct {
		role  string
		files []string
		want  bool
	}{
		{"{role: server}", everything, true},
		{"{role: agent, server: 'https://a:6443', token: t}", everything, false},
		{"{role: server}", []string{"etc/init.d/pikelet-k3s"}, false},
	} {
		files, _ := Files(input(t, "hostname: attic\nk3s: "+c.role+"\n", c.files...))
		got := slices.ContainsFunc(files, func(f File) bool { return f.Path == "/etc/runlevels/default/pikelet-rollout" })
		if got != c.want {
			t.Errorf("%s, %q: the service is enabled: %v, want %v", c.role, c.files, got, c.want)
		}
	}
}
