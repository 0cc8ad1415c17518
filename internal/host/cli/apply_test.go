package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// fakeNodes puts a program in the place of ssh that answers for nodes: with what the file
// HOST-VERB has, or as a host that is away. It returns the directory of those files.
func fakeNodes(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir+"/ssh", `#!/bin/sh
while [ "$1" != doas ]; do host=$1; shift; done
shift 2
case "$1 $2" in "config show") verb=show ;; *) verb=$1 ;; esac
echo "$host $*" >> "`+dir+`/asked"
cat "`+dir+`/$host-$verb" 2>/dev/null && exit
[ -e "`+dir+`/$host-show" ] && { echo "pikeletd: unknown command" >&2; exit 2; }
echo "ssh: connect to host $host port 22: No route to host" >&2
exit 255
`, 0o755)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", dir+"/.config")
	return dir
}

// keeps has a fake node keep a config.
func keeps(t *testing.T, dir, host, config string) {
	t.Helper()
	cfg, err := nodeconfig.Parse(host, []byte(config))
	if err != nil {
		t.Fatal(err)
	}
	text, err := cfg.Compared(nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := node.ConfigReport{Config: text, Source: node.FromState}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, host+"-show"), string(b), 0o644)
}

// runs runs pikelet in this process, and checks its exit status and what it prints.
func runs(t *testing.T, status int, want []string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	if got := Run(t.Context(), "dev", args, strings.NewReader(""), &out, &out); got != status {
		t.Errorf("pikelet %s: exit status %d, want %d\n%s", strings.Join(args, " "), got, status, out.String())
	}
	contains(t, out.String(), want...)
}

// TestApplyChecks: the exit status says for CI how nodes are, and nothing is changed.
func TestApplyChecks(t *testing.T) {
	dir := fakeNodes(t)
	nodes := dir + "/nodes.yaml"
	write(t, nodes, "defaults: {logs: state}\nnodes: [{hostname: attic}, {hostname: cellar}, {hostname: roof}]\n", 0o644)
	keeps(t, dir, "attic", "hostname: attic\nlogs: state\n")
	keeps(t, dir, "cellar.lan", "hostname: cellar\nlogs: memory\n")
	cellar := []string{"--host", "cellar=cellar.lan"}
	runs(t, exitDone, []string{"attic: same"}, "apply", nodes, "attic", "--check")
	runs(t, exitRolledBack,
		[]string{"attic: same\ncellar: differs\n", "-logs: memory\n+logs: state\n", "roof: unreachable: ssh: connect to host"},
		append(cellar, "apply", nodes, "--check")...)
	runs(t, exitFailed, []string{"attic: same\nroof: unreachable"}, "apply", nodes, "attic", "roof", "--check")
	runs(t, exitDone, []string{"cellar: differs"}, append(cellar, "apply", nodes, "attic", "cellar", "--dry-run")...)
	runs(t, exitFailed, []string{"cellar: differs", "roof: unreachable"}, append(cellar, "apply", nodes, "cellar", "roof", "--dry-run")...)
	runs(t, exitRolledBack, []string{`{"result":{"node":"cellar","state":"differs","diff":"--- cellar as it is\n`},
		append(cellar, "apply", nodes, "cellar", "--check", "--json")...)
	if asked := mustRead(t, dir+"/asked"); strings.Contains(asked, "try") || strings.Contains(asked, "confirm") {
		t.Errorf("a comparison changes nodes:\n%s", asked)
	}
	runs(t, exitFailed, []string{"cellar: failed: unknown command"}, append(cellar, "apply", nodes, "cellar")...)
	for _, c := range []struct {
		want string
		args []string
	}{
		{`has no node "barn"; it has attic, cellar, roof`, []string{nodes, "barn"}},
		{`--host "attic": want NODE=HOST`, []string{nodes, "--host", "attic"}},
		{`has no node "barn"`, []string{nodes, "--host", "barn=attic"}},
		{"--trial 1s: want 10s to 1h0m0s", []string{nodes, "--trial", "1s"}},
		{"none of the others can be", []string{nodes, "--dry-run", "--check"}},
		{"want an inventory", nil},
	} {
		runs(t, exitUsage, []string{c.want}, append([]string{"apply"}, c.args...)...)
	}
	write(t, nodes, "nodes: [{serial: '0badcafe'}]\n", 0o644)
	runs(t, exitUsage, []string{"a node without a hostname"}, "apply", nodes)
	keeps(t, dir, node.DefaultName("lab", "0badcafe"), "{}")
	runs(t, exitDone, []string{": same"}, "apply", nodes, "--stream", "lab")
}

// TestUpCommand: what to do about nodes that do not answer, and the kubeconfig when all are
// ready.
func TestUpCommand(t *testing.T) {
	dir := fakeNodes(t)
	nodes := dir + "/nodes.yaml"
	write(t, nodes, "nodes:\n- {hostname: attic, k3s: {role: server, token: t}}\n"+
		"- {hostname: cellar, k3s: {role: agent, server: 'https://10.0.0.1:6443', token: t}}\n", 0o644)
	up := []string{"up", nodes, "out", "--kubeconfig", dir + "/k3s.yaml"}
	runs(t, exitFailed, []string{
		"no answer over ssh yet: attic, cellar", "sudo pikelet flash out /dev/sdX --inventory " + nodes + " --node cellar\n",
		"sudo pikelet serve out --inventory " + nodes + " --interface eth0 --proxy\n",
		"waiting for an answer over ssh: ssh: connect to host attic port 22: No route to host node=attic",
		"not all nodes are ready after 1s: attic: an answer over ssh", "cellar: not its turn yet", "hint: the same command goes on",
	}, append(up, "--wait", "1s")...)
	for host, role := range map[string]string{"attic": "server", "cellar": "agent"} {
		s := node.Status{Node: node.Prepared{Hostname: host}, K3s: node.K3sStatus{Role: role, Running: true},
			Cluster: &node.ClusterStatus{Ready: "True"}}
		b, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir+"/"+host+"-status", string(b), 0o644)
	}
	keeps(t, dir, "attic", "hostname: attic\n")
	runs(t, exitFailed, []string{"getting the kubeconfig of attic: the release that the node runs is too old"}, up...)
	write(t, dir+"/attic-kubeconfig", `apiVersion: v1
kind: Config
clusters: [{name: default, cluster: {certificate-authority-data: b3Vycw==, server: "https://127.0.0.1:6443"}}]
contexts: [{name: default, context: {cluster: default, user: default}}]
current-context: default
users: [{name: default, user: {client-certificate-data: Y2VydA==, client-key-data: a2V5}}]
`, 0o644)
	runs(t, exitDone, []string{"ready node=attic", "ready node=cellar", "server=https://10.0.0.1:6443", "2 nodes are ready"}, up...)
	contains(t, mustRead(t, dir+"/k3s.yaml"), "server: https://10.0.0.1:6443")
	write(t, dir+"/k3s.yaml", "notes\n", 0o644)
	runs(t, exitFailed, []string{"is not the kubeconfig of this cluster, and is left as it is", "hint: --overwrite replaces it"}, up...)
	runs(t, exitDone, []string{`"server":"https://api.lan:6443"`}, append(up, "--overwrite", "--server", "api.lan", "--json")...)
	write(t, nodes, "nodes: [{hostname: attic}]\n", 0o644)
	runs(t, exitUsage, []string{"no node of the inventory begins a cluster"}, up...)
}
