package agent

import (
	"bytes"
	"strings"
	"testing"
)

// TestExitStatus: 0 for help, 2 for arguments that are invalid, 1 for what fails.
// Flags may come in any order.
func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		args   string
		status int
		out    string // on standard output
		err    string // on standard error
	}{
		{"--help", 0, "rollback", ""},
		{"upgrade -h", 0, "--plain-http", ""},
		{"volume --help", 0, "forget", ""},
		{"", 2, "", "pikeletd: missing command\nhint: pikeletd --help lists the commands"},
		{"fly", 2, "", `unknown command "pikeletd fly"`},
		{"volume", 2, "", "missing command"},
		{"volume fly", 2, "", `unknown command "pikeletd volume fly"`},
		{"status --xml", 2, "", "unknown flag: --xml\nhint: pikeletd status --help lists the flags"},
		{"status now", 2, "", "got 1 arguments, want 0"},
		{"upgrade", 2, "", "got 0 arguments, want 1"},
		{"upgrade --again a b", 2, "", "got 2 arguments, want 1"},
		{"reboot --try --rescue", 2, "", "--try and --rescue exclude each other"},
		{"reset --yes --volume", 1, "", "boot.json"},
		{"reset --volume --yes", 1, "", "boot.json"},
		{"status --json", 1, "", "boot.json"},
	} {
		var out, err bytes.Buffer
		if status := Main(strings.Fields(c.args), strings.NewReader(""), &out, &err); status != c.status {
			t.Errorf("pikeletd %s: exit status %d, want %d: %s", c.args, status, c.status, err.String())
		}
		if !strings.Contains(out.String(), c.out) || !strings.Contains(err.String(), c.err) || c.err == "" && err.Len() > 0 {
			t.Errorf("pikeletd %s printed %q and %q, want %q and %q", c.args, out.String(), err.String(), c.out, c.err)
		}
	}
}

// TestServiceVerbs: the overlays' services and /init run these verbs.
func TestServiceVerbs(t *testing.T) {
	for _, args := range []string{"prepare", "run", "k3s", "volume start", "volume stop", "reboot --now"} {
		var out, err bytes.Buffer
		if status := Main(append(strings.Fields(args), "--help"), nil, &out, &err); status != 0 {
			t.Errorf("pikeletd %s --help: exit status %d: %s", args, status, err.String())
		}
	}
}
