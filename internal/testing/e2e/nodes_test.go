package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// TestInventoryOnFirstPartition: a card that was flashed without a config, and on whose first
// partition another system put nodes.yaml, is the node that the inventory says, and the
// inventory does not stay there. mtools stands for the other system.
func TestInventoryOnFirstPartition(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	card := filepath.Join(dir, "card")
	writeFile(t, card, "", 0o600)
	enlarge(t, card, 600)
	flashCard(t, sharedBuild(t, "node.yaml"), card)
	writeFile(t, dir+"/nodes.yaml", `defaults:
  files: [{path: /etc/secret, content: hush-hush, secret: true}]
nodes:
- {hostname: cellar, serial: '00000001'}
- {hostname: attic, serial: '52617370'}
`, 0o600)
	first := fmt.Sprintf("%s@@%d", card, partitionTable(t, card).Partitions[disk.Control-1].Start)
	if out, err := exec.Command("mcopy", "-i", first, dir+"/nodes.yaml", "::"+slots.NodesFile).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	p := boot(t, card)
	p.expect("this is a first boot", "this is attic, config from the control partition")
	p.prompt()
	p.works("grep hush-hush /etc/secret && ! grep -r cellar /var/lib/pikelet/state/node")
	p.off()
	out, err := exec.Command("mtype", "-i", first, "::"+slots.NodesFile).Output()
	if err != nil || len(out) < 100 || !strings.HasPrefix(nodeconfig.Taken, string(out)) { // as much as the file has room for
		t.Errorf("the first partition has %q, %v", out, err)
	}
}
