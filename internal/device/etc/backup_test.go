package etc

import (
	"slices"
	"strings"
	"testing"
)

// TestBackupService: a server whose config says where backups go makes them, and an
// image that makes none says so.
func TestBackupService(t *testing.T) {
	const backup = "backup: {to: /mnt/nas, every: 6h, recipients: [age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]}\n"
	for _, c := range []struct {
		text    string
		files   []string
		want    bool
		problem string
	}{
		{"k3s: {role: server}\n" + backup, everything, true, ""},
		{"k3s: {role: server}\n", everything, false, ""},
		{"k3s: {role: agent, server: 'https://a:6443', token: t}\n" + backup, everything, false, ""},
		{"k3s: {role: server}\n" + backup, []string{"etc/init.d/pikelet-k3s"}, false, "add the overlay backup"},
	} {
		files, problems := Files(input(t, "hostname: attic\n"+c.text, c.files...))
		got := slices.ContainsFunc(files, func(f File) bool { return f.Path == "/etc/runlevels/default/pikelet-backup" })
		if got != c.want || strings.Contains(strings.Join(problems, "\n"), "overlay backup") != (c.problem != "") {
			t.Errorf("%s: the service is enabled: %v, want %v; problems %q", c.text, got, c.want, problems)
		}
	}
}
