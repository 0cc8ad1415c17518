package iscsi

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// fakeISCSI makes records as iscsiadm 2.1.8 does, and notes how it is called.
type fakeISCSI struct {
	t       *testing.T
	dir     string
	group   bool // records have the number of a portal group
	calls   []string
	logged  string // the record that was there at the last login
	refuses error  // what a login gives
	open    map[string][]string
}

func (f *fakeISCSI) initiator() Initiator {
	return Initiator{run: f.run, dirs: []string{filepath.Join(f.dir, "none"), f.dir},
		sessions: func(target string) []string { return f.open[target] }}
}

func (f *fakeISCSI) record(golden, name string) {
	b, err := os.ReadFile("testdata/" + golden)
	if err != nil {
		f.t.Fatal(err)
	}
	name = filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fakeISCSI) run(args ...string) (string, error) {
	call := strings.Join(args, " ")
	f.calls = append(f.calls, call)
	node := "nodes/" + target + "/10.0.0.5,3260"
	if f.group {
		node += ",1/default"
	}
	switch {
	case strings.HasPrefix(call, "-m node") && strings.HasSuffix(call, "-o new"):
		f.record("node-record", node)
	case strings.HasPrefix(call, "-m discoverydb") && strings.HasSuffix(call, "-o new"):
		f.record("discovery-record", "send_targets/10.0.0.5,3260/st_config")
	case strings.HasSuffix(call, "--discover"):
		f.t.Errorf("%s: it writes the records of all targets anew", call)
	case strings.HasSuffix(call, "--discover -o nonpersistent"):
		return "10.0.0.5:3260,1 " + target + "\n", nil
	case strings.HasSuffix(call, "--login"):
		b, err := os.ReadFile(filepath.Join(f.dir, node))
		if err != nil {
			f.t.Error(err)
		}
		f.logged = string(b)
		return "", f.refuses
	}
	return "", nil
}

const target = "iqn.2026-01.lan.nas:attic"

var chap = nodeconfig.CHAP{User: "node", Password: "hunter2hunter2", MutualUser: "nas", MutualPassword: "swordfish1234"}

// checkSecrets: no secret was an argument, and every record is root's alone.
func (f *fakeISCSI) checkSecrets() {
	f.t.Helper()
	if all := strings.Join(f.calls, "\n"); strings.Contains(all, chap.Password) || strings.Contains(all, chap.MutualPassword) {
		f.t.Errorf("secrets are arguments, which everybody on the node reads:\n%s", all)
	}
	filepath.WalkDir(f.dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm() != 0o600 {
			f.t.Errorf("%s has mode %v", name, info.Mode())
		}
		return err
	})
}

// TestLoginKeepsSecrets: who logs in is in the target's record, which only
// root reads, before the login; the rest of the record is as it was.
func TestLoginKeepsSecrets(t *testing.T) {
	for _, group := range []bool{false, true} {
		f := &fakeISCSI{t: t, dir: t.TempDir(), group: group}
		if err := f.initiator().Login(nodeconfig.Target{Name: target, Portals: []string{"10.0.0.5"}, CHAP: chap}); err != nil {
			t.Fatal(err)
		}
		f.checkSecrets()
		was, err := os.ReadFile("testdata/node-record")
		if err != nil {
			t.Fatal(err)
		}
		var changed []string
		for line := range strings.Lines(f.logged) {
			if !strings.Contains("\n"+string(was), "\n"+line) {
				changed = append(changed, strings.TrimSuffix(line, "\n"))
			}
		}
		want := "node.startup = onboot|node.session.initial_login_retry_max = 1|node.session.auth.authmethod = CHAP|" +
			"node.session.timeo.replacement_timeout = 86400|node.conn[0].timeo.login_timeout = 10|node.session.auth.username = " +
			"node|node.session.auth.password = hunter2hunter2|" +
			"node.session.auth.username_in = nas|node.session.auth.password_in = swordfish1234"
		lines := strings.Count(f.logged, "\n") - strings.Count(string(was), "\n")
		if got := strings.Join(changed, "|"); got != want || lines != 4 || !strings.HasSuffix(f.logged, "\n"+recordEnd+"\n") {
			t.Errorf("the record at the login has\n%s\nwant\n%s\nin\n%s", got, want, f.logged)
		}
	}
}

func TestDiscoveryKeepsSecrets(t *testing.T) {
	f := &fakeISCSI{t: t, dir: t.TempDir(), group: true}
	if err := f.initiator().Discover(nodeconfig.Discovery{Portal: "10.0.0.5", CHAP: chap}); err != nil {
		t.Fatal(err)
	}
	f.checkSecrets()
	b, err := os.ReadFile(filepath.Join(f.dir, "send_targets/10.0.0.5,3260/st_config"))
	if err != nil || !strings.Contains(string(b), "\ndiscovery.sendtargets.auth.authmethod = CHAP\n") ||
		!strings.Contains(string(b), "\ndiscovery.sendtargets.auth.password = hunter2hunter2\n") {
		t.Errorf("the record that was asked with: %v\n%s", err, b)
	}
	if !strings.Contains(f.logged, "\nnode.session.auth.password = hunter2hunter2\n") {
		t.Errorf("the record of the login:\n%s", f.logged)
	}
	if got := f.calls[len(f.calls)-1]; got != "-m node -T "+target+" -p 10.0.0.5:3260 --login" {
		t.Errorf("the last call: %s", got)
	}
}

func TestLoginFails(t *testing.T) {
	f := &fakeISCSI{t: t, dir: t.TempDir(), refuses: errors.New("exit status 24")}
	err := f.initiator().Login(nodeconfig.Target{Name: target, Portals: []string{"10.0.0.5"}, CHAP: chap})
	if err == nil || !strings.Contains(err.Error(), target+" at 10.0.0.5: logging in: exit status 24") {
		t.Errorf("a target that refuses: %v", err)
	}
	in := f.initiator()
	in.dirs = []string{f.dir + "/none"}
	if err := in.loginWith(target, "10.0.0.5:3260", chap); err == nil || !strings.Contains(err.Error(), "record of 10.0.0.5:3260 in ") {
		t.Errorf("no record: %v", err)
	}
	for _, name := range []string{"../nodes", "..", "a/b", ""} {
		calls := len(f.calls)
		err := f.initiator().loginWith(name, "10.0.0.5:3260", chap)
		if err == nil || !strings.Contains(err.Error(), "invalid target name") || len(f.calls) != calls {
			t.Errorf("the target %q, as a network names it: %v", name, err)
		}
	}
}

func TestSetRecord(t *testing.T) {
	record := "# BEGIN RECORD 2.1.8\na = 1\nab = 2\n" + recordEnd + "\n"
	got, err := setRecord([]byte(record), [][2]string{{"ab", "3"}, {"b", "x y"}, {"a", ""}})
	if want := "# BEGIN RECORD 2.1.8\na = \nab = 3\nb = x y\n" + recordEnd + "\n"; err != nil || string(got) != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	for what, c := range map[string]struct{ record, value string }{"no record": {"a = 1\n", "1"}, "two lines": {record, "1\nb = 2"}} {
		if got, err := setRecord([]byte(c.record), [][2]string{{"a", c.value}}); err == nil {
			t.Errorf("%s: %q", what, got)
		}
	}
}

func TestFindRecord(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"10.0.0.5,3260", "10.0.0.5,860", "fe80::1%eth0,3260"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for portal, want := range map[string]string{
		"10.0.0.5:860": "10.0.0.5,860", "[fe80:0::1%eth0]:3260": "fe80::1%eth0,3260", "10.0.0.50:3260": "", "[fe80::1]:3260": "",
	} {
		got, err := findRecords(dir, portal)
		if want == "" && !errors.Is(err, os.ErrNotExist) || want != "" && (err != nil || len(got) != 1 || got[0] != filepath.Join(dir, want)) {
			t.Errorf("%s: %s, %v; want %q", portal, got, err, want)
		}
	}
}

// TestRecordsOfSessionsAreKept: another's discovery writes records of all
// targets anew, one for the portal group beside ours; both have our settings
// again, and no login is tried (open-iscsi/open-iscsi#286).
func TestRecordsOfSessionsAreKept(t *testing.T) {
	f := &fakeISCSI{t: t, dir: t.TempDir(), open: map[string][]string{target: {"session1"}}}
	f.record("node-record", "nodes/"+target+"/10.0.0.5,3260")
	f.record("node-record", "nodes/"+target+"/10.0.0.5,3260,1/default")
	if err := f.initiator().Login(nodeconfig.Target{Name: target, Portals: []string{"10.0.0.5", "10.0.0.6"}, CHAP: chap}); err != nil {
		t.Fatal(err)
	}
	f.checkSecrets()
	for _, name := range []string{"10.0.0.5,3260", "10.0.0.5,3260,1/default"} {
		b, err := os.ReadFile(filepath.Join(f.dir, "nodes", target, name))
		text := string(b)
		if err != nil || !strings.Contains(text, "\nnode.startup = onboot\n") ||
			!strings.Contains(text, "\nnode.session.auth.authmethod = CHAP\n") {
			t.Errorf("%s: %v\n%s", name, err, b)
		}
	}
	if len(f.calls) != 0 {
		t.Errorf("iscsiadm was called: %q", f.calls)
	}
}

// TestDiscoveryLogin: who asks and who logs in may differ
// (ceph/ceph-iscsi#68).
func TestDiscoveryLogin(t *testing.T) {
	const asked, logged = "discovery.sendtargets.auth.authmethod = CHAP", "node.session.auth.authmethod = CHAP"
	for _, c := range []struct {
		d           nodeconfig.Discovery
		asks, login bool
	}{
		{nodeconfig.Discovery{Portal: "10.0.0.5"}, false, false},
		{nodeconfig.Discovery{Portal: "10.0.0.5", CHAP: chap}, true, true},
		{nodeconfig.Discovery{Portal: "10.0.0.5", Login: &chap}, false, true},
		{nodeconfig.Discovery{Portal: "10.0.0.5", CHAP: chap, Login: &nodeconfig.CHAP{}}, true, false},
	} {
		f := &fakeISCSI{t: t, dir: t.TempDir()}
		if err := f.initiator().Discover(c.d); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(f.dir, "send_targets/10.0.0.5,3260/st_config"))
		if err != nil || strings.Contains(string(b), asked) != c.asks || strings.Contains(f.logged, logged) != c.login {
			t.Errorf("%+v: asks with CHAP: %v, logs in with it: %v "+
				"(%v)", c.d, strings.Contains(string(b), asked), strings.Contains(f.logged, logged), err)
		}
	}
}

// TestDiscoveryLeavesSessions: a target that has a session is left as it is.
func TestDiscoveryLeavesSessions(t *testing.T) {
	f := &fakeISCSI{t: t, dir: t.TempDir(), open: map[string][]string{target: {"session1"}}}
	if err := f.initiator().Discover(nodeconfig.Discovery{Portal: "10.0.0.5"}); err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(f.calls, "\n"); strings.Contains(all, "-m node") {
		t.Errorf("calls:\n%s", all)
	}
}

// TestDiskNames are what udev, the kubelet and CSI drivers call the disks.
func TestDiskNames(t *testing.T) {
	for portal, want := range map[string]string{
		"10.0.0.5:3260": "ip-10.0.0.5:3260-iscsi-" + target + "-lun-1",
		"fec0::2:33261": "ip-fec0::2:33261-iscsi-" + target + "-lun-1",
	} {
		host, port := portal[:strings.LastIndexByte(portal, ':')], portal[strings.LastIndexByte(portal, ':')+1:]
		if got := newLUN(target, host, port, "0:0:0:1", "sda").pathName(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
