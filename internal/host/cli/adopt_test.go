package cli

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/pikelet-os/pikelet/internal/shared/backup"
	"github.com/pikelet-os/pikelet/internal/testing/certtest"
)

// fakeServer makes a directory that looks like a machine with a k3s server, and an ssh
// that runs scripts there.
func fakeServer(t *testing.T, dir string) {
	t.Helper()
	machine := filepath.Join(dir, "machine")
	server := machine + "/srv/k3s/server/"
	for _, name := range []string{server + "tls", server + "db", machine + "/etc/rancher/k3s/config.yaml.d", machine + "/etc/systemd/system",
		machine + "/proc/sys/kernel", dir + "/bin"} {
		if err := os.MkdirAll(name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, server+"tls/server-ca.crt", string(certtest.Authority(t)), 0o600)
	write(t, server+"token", "K10aa::server:hush\n", 0o600)
	write(t, machine+"/proc/sys/kernel/hostname", "pi-one\n", 0o600)
	write(t, machine+"/etc/rancher/k3s/config.yaml", "data-dir: /srv/k3s\ntls-san: [k3s.lan]\nflannel-backend: vxlan\nunheard-of: x\n", 0o600)
	write(t, machine+"/etc/rancher/k3s/config.yaml.d/9.yaml", "flannel-backend: host-gw\ntls-san+: [other.lan]\n", 0o600)
	write(t, machine+"/etc/systemd/system/k3s.service.env", "K3S_TOKEN='hush-token'\nHTTP_PROXY=http://a:hush@p\n", 0o600)
	write(t, machine+"/etc/systemd/system/k3s.service",
		"[Service]\nExecStart=/usr/local/bin/k3s \\\n    server \\\n\t'--disable' \\\n\t'traefik' \\\n\n", 0o600)
	write(t, dir+"/bin/k3s", "#!/bin/sh\necho 'k3s version v1.33.4+k3s1 (abc)'\n", 0o755)
	write(t, dir+"/bin/ip", "#!/bin/sh\necho '2: eth0    inet 10.0.0.10/24 brd'\n", 0o755)
	write(t, dir+"/bin/systemctl", "#!/bin/sh\n[ $1 = cat ] || echo \"$@\" >>"+dir+"/calls\n", 0o755)
	write(t, dir+"/bin/ssh", "#!/bin/sh\nsed \"s|^root=.*|root="+machine+"|; s|^dir='|dir='"+machine+"|\" | sh -s\n", 0o755)
	for _, q := range []string{"PRAGMA journal_mode=WAL", "CREATE TABLE kine (id INTEGER PRIMARY KEY, name TEXT, deleted INTEGER)",
		"INSERT INTO kine (name, deleted) VALUES ('/bootstrap', 0)"} {
		if out, err := exec.Command("sqlite3", server+"db/state.db", q).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

// TestAdopt: of a server that its installer set up comes a backup that opens with the
// keys of the desk, and an inventory with one node; and no secret is shown.
func TestAdopt(t *testing.T) {
	if _, err := exec.LookPath("sqlite3"); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	fakeServer(t, dir)
	write(t, dir+"/age.key", key.String()+"\n", 0o600)
	path := []string{"PATH=" + dir + "/bin:" + os.Getenv("PATH")}
	args := []string{"adopt", "pi@one", "-o", "one.backup", "--identity", "age.key"}
	out, status := pikelet(t, dir, path, args...)
	if status != 0 {
		t.Fatal(out)
	}
	for _, want := range []string{
		"one.backup: server pi-one, cluster sha256:", "pi@one:/etc/rancher/k3s/config.yaml:1: k3s option data-dir:",
		"config.yaml:4: k3s option unheard-of:", "k3s.service.env:2: HTTP_PROXY:",
		"the new node is called pi-one-2: k3s knows pi-one by a password",
		"address 10.0.0.10/24: agents", "--leave-stopped is for the move", "pikelet restore one.backup NODE --replace",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	inventory, err := os.ReadFile(dir + "/nodes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out+string(inventory), "hush") {
		t.Errorf("a secret is shown:\n%s\n%s", out, inventory)
	}
	for _, want := range []string{"hostname: pi-one-2", "role: server", "token: age:", "disable: traefik", "flannel-backend: host-gw",
		"- k3s.lan", "- other.lan"} {
		if !strings.Contains(string(inventory), want) {
			t.Errorf("no %q in\n%s", want, inventory)
		}
	}
	shown, status := pikelet(t, dir, path, "node", "show", "nodes.yaml", "--node", "pi-one-2", "--identity", "age.key", "--secrets")
	if status != 0 || !strings.Contains(shown, "token: hush-token") {
		t.Errorf("the inventory: %s", shown)
	}
	sealed, err := os.ReadFile(dir + "/one.backup")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := backup.Decrypt(bytes.NewReader(sealed), key)
	if err != nil {
		t.Fatal(err)
	}
	info, err := backup.Extract(plain, func(backup.Info) error { return nil }, func(_ string, _ int64, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
	if err != nil || !info.Adopted || info.Node != "pi-one" || info.K3s != "v1.33.4+k3s1" {
		t.Errorf("got %+v, %v", info, err)
	}
	if left, _ := filepath.Glob(dir + "/.pikelet-adopt-*"); len(left) > 0 {
		t.Errorf("an unencrypted datastore is left behind: %q", left)
	}
	adoptAgain(t, dir, path, args)
}

// adoptAgain adopts a server that was adopted before: for the move, with an empty
// datastore, and with one elsewhere.
func adoptAgain(t *testing.T, dir string, path, args []string) {
	t.Helper()
	if out, status := pikelet(t, dir, path, args...); status == 0 || !strings.Contains(out, "nodes.yaml was left as it is") {
		t.Errorf("a second time: %s", out)
	}
	leave := append(slices.Clone(args), "--force", "--leave-stopped")
	if out, status := pikelet(t, dir, path, leave...); status != 0 || !strings.Contains(out, "is stopped") {
		t.Errorf("--leave-stopped: %s", out)
	}
	if calls, _ := os.ReadFile(dir + "/calls"); string(calls) != "stop k3s\n" {
		t.Errorf("services: got %q", calls)
	}
	// What only the desk sees of a copy starts k3s again too.
	if out, err := exec.Command("sqlite3", dir+"/machine/srv/k3s/server/db/state.db", "DELETE FROM kine").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, status := pikelet(t, dir, path, append(leave, "-o", "two.backup")...)
	if status == 0 || !strings.Contains(out, "the datastore is empty") {
		t.Errorf("an empty datastore: %s", out)
	}
	if calls, _ := os.ReadFile(dir + "/calls"); string(calls) != "stop k3s\nstop k3s\nstart k3s\n" {
		t.Errorf("services after a copy that came to nothing: got %q", calls)
	}
	if _, err := os.Stat(dir + "/two.backup"); err == nil {
		t.Error("a backup of an empty datastore")
	}
	refused := append(slices.Clone(args), "--force", "--stop")
	write(t, dir+"/machine/etc/rancher/k3s/config.yaml", "datastore-endpoint: mysql://k3s:hush@tcp(db)/k3s\n", 0o600)
	out, status = pikelet(t, dir, path, refused...)
	if status == 0 || !strings.Contains(out, "a database elsewhere") || strings.Contains(out, "hush") {
		t.Errorf("a database elsewhere: %s", out)
	}
}

func TestImportCommand(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/hosts.ini", "[master]\none ansible_host=10.0.0.1\n[node]\ntwo\n[all:vars]\nk3s_token=hush\nansible_user=ada\n", 0o644)
	out, status := pikelet(t, dir, nil, "import", "k3s-ansible", "hosts.ini")
	if status != 0 || !strings.Contains(out, "left out, because secret: k3s.token") || strings.Contains(out, "hush") {
		t.Fatalf("without a key: %s", out)
	}
	if out, status := pikelet(t, dir, nil, "import", "k3s-ansible", "hosts.ini"); status == 0 || !strings.Contains(out, "--force") {
		t.Errorf("over a file: %s", out)
	}
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	out, status = pikelet(t, dir, nil, "import", "k3s-ansible", "hosts.ini", "--force", "--recipient", key.Recipient().String(), "--json")
	if status != 0 || !strings.Contains(out, `"file":"hosts.ini","line":2`) || !strings.Contains(out, `"nodes":2`) {
		t.Fatalf("with a key: %s", out)
	}
	if out, status := pikelet(t, dir, nil, "node", "check", "nodes.yaml"); status != 0 {
		t.Errorf("node check: %s", out)
	}
	if out, status := pikelet(t, dir, nil, "import", "k3s-ansible", "hosts.ini", "--force", "--recipient", "x"); status != exitUsage {
		t.Errorf("no public key: got status %d, %s", status, out)
	}
}
