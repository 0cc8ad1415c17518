package cli

import (
	"os"
	"strings"
	"testing"
)

// TestReplaceRefuses: what is in the way is said before a cluster is asked for
// anything, and the inventory stays as it is.
func TestReplaceRefuses(t *testing.T) {
	dir := t.TempDir()
	const inventory = "# mine\nnodes:\n- {hostname: attic, serial: '12345678', k3s: {role: server, token: t}}\n" +
		"- {hostname: cellar, serial: '23456789', k3s: {role: agent, token: t, server: 'https://attic:6443'}}\n" +
		"- {hostname: loft, mac: 'dc:a6:32:01:02:03'}\n"
	write(t, dir+"/nodes.yaml", inventory, 0o600)
	for name, c := range map[string]struct {
		args   []string
		status int
		want   string
	}{
		"no serial":           {[]string{"cellar"}, 2, "serial"},
		"a serial too short":  {[]string{"cellar", "--serial", "123"}, 2, "8 or 16 hexadecimal digits"},
		"a server":            {[]string{"attic", "--serial", "9abcdef0"}, 1, "pikelet move server"},
		"an unknown node":     {[]string{"shed", "--serial", "9abcdef0"}, 1, `no node "shed"`},
		"another node's":      {[]string{"cellar", "--serial", "1000000012345678"}, 2, "already"},
		"an address too":      {[]string{"loft", "--serial", "9abcdef0"}, 1, "--mac"},
		"no cluster":          {[]string{"cellar", "--serial", "9abcdef0"}, 1, "name one with --kubeconfig"},
		"no inventory at all": {[]string{"cellar", "--serial", "9abcdef0", "--inventory", "none.yaml"}, 1, "none.yaml"},
	} {
		out, status := pikelet(t, dir, nil, append([]string{"node", "replace"}, c.args...)...)
		if status != c.status || !strings.Contains(out, c.want) {
			t.Errorf("%s: status %d, want %d; no %q in %q", name, status, c.status, c.want, out)
		}
	}
	if got, err := os.ReadFile(dir + "/nodes.yaml"); err != nil || string(got) != inventory {
		t.Errorf("the inventory is\n%s, %v", got, err)
	}
}
