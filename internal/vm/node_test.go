package vm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/disk"
	"github.com/pikelet-os/pikelet/internal/slots"
)

// sshKey makes a key and returns its file and its public half.
func sshKey(t *testing.T) (file, public string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "id")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	b, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return file, strings.TrimSpace(string(b))
}

// configure writes a node config over the one on a card.
func configure(t *testing.T, card, text string) {
	t.Helper()
	overwrite(t, card, control(t, card, slots.NodeFile), []byte(text+strings.Repeat("\n", slots.NodeSize-len(text))))
}

// control returns where a file of the control partition lies on a card.
func control(t *testing.T, card, name string) int64 {
	t.Helper()
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mbr := make([]byte, disk.SectorSize)
	if _, err := f.ReadAt(mbr, 0); err != nil {
		t.Fatal(err)
	}
	table, err := disk.Decode(mbr)
	if err != nil {
		t.Fatal(err)
	}
	at, _, err := slots.ControlFile(f, table, name)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// enlarge makes a card larger than the image, as real ones are.
func enlarge(t *testing.T, card string, mib int64) {
	t.Helper()
	if err := os.Truncate(card, mib<<20); err != nil {
		t.Fatal(err)
	}
}

func TestFirstBoot(t *testing.T) {
	t.Parallel()
	card := cardOf(t, sharedBuild(t, "node.yaml"))
	enlarge(t, card, 600)
	_, public := sshKey(t)
	configure(t, card, "hostname: attic\nusers:\n- name: anna\n  admin: true\n  keys: ['"+public+"']\ntime: {zone: Europe/Berlin}\n")
	p := boot(t, card)
	p.expect("this is a first boot", "this is attic, config from the control partition")
	p.prompt()
	p.run("df -m; mount; cat /run/pikelet/prepare.json; cat /etc/passwd; ls -la /home/anna/.ssh /var/lib/pikelet/state; date; free -m", "Mem:")
	p.works("[ $(hostname) = attic ]")
	p.off()
	t.Log(p.Output())
}
