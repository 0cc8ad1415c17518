package e2e

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// TestOverlays boots an image with the ssh overlay and one of the user's own,
// logs in over SSH with the key it was told, and without, and is who the
// inventory in the image says by its serial.
func TestOverlays(t *testing.T) {
	t.Parallel()
	key := filepath.Join(t.TempDir(), "id")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	// In the place of pikelet, which TestSeedNode runs.
	var release bytes.Buffer
	z := gzip.NewWriter(&release)
	z.Write(tarOf(t, map[string][]byte{"pikelet-9-linux-arm64/pikelet": []byte("#!/bin/sh\necho arguments: $*\nexec sleep 100000\n")}))
	z.Close()
	served, digest := keepFile(t, t.TempDir(), "pikelet-9-linux-arm64.tar.gz", release.Bytes())
	r := variant(t, "slot-size: 40MiB", fmt.Sprintf(`slot-size: 40MiB
inventory: inventory.yaml
layers:
  - folder: %s
    to: srv
    rules: [{path: srv/id, mode: '0600'}]
overlays:
  - {name: ./tuned, with: {greeting: good morning}}
  - {name: seed-node, with: {release: %s, sha256: %s, image: registry.test/lab:stable}}
  - {name: ssh, with: {port: '2222', keys: %s}}`, filepath.Dir(key), served, digest, strings.TrimSpace(string(public))))
	p := boot(t, r.Disk, func(o *vm.Options) { o.Snapshot = true })
	p.expect("this is baked, config from the image's inventory")
	p.prompt()
	p.run("cat /etc/greeting", "good morning from an overlay")
	p.works("[ $(cat /proc/sys/vm/swappiness) = 17 ] && grep ^dummy /proc/modules")
	p.works("dropbearconvert openssh dropbear /srv/id /tmp/id")
	p.works(`[ "$(dbclient -y -y -p 2222 -i /tmp/id root@127.0.0.1 'echo in' </dev/null)" = in ]`)
	const command = "serve registry.test/lab:stable --inventory /etc/pikelet/nodes.yaml --interface eth0" +
		" --state /var/lib/pikelet-serve/state .* --proxy"
	p.works("rc-service pikelet-serve status")
	p.works("until grep 'arguments: " + command + "' /var/log/pikelet-serve.log; do sleep 1; done")
	p.works("df /var/lib/pikelet-serve | grep /dev/vda4")
	p.works("! DROPBEAR_PASSWORD=x dbclient -y -y -p 2222 root@127.0.0.1 true </dev/null")
}
