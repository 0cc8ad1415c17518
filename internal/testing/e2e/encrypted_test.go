package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/testing/vm"
	"github.com/pikelet-os/pikelet/internal/tools/full"
)

// TestEncryptedVolume: a blank disk is encrypted with the key of the config; the
// disk shows nothing of what is on the volume, and cryptsetup elsewhere opens it
// with the key alone. Where the config says passphrase, the volume waits, a wrong
// one does not open it, and what opens it finds the data.
func TestEncryptedVolume(t *testing.T) {
	t.Parallel()
	second := filepath.Join(t.TempDir(), "second.img")
	if err := os.WriteFile(second, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	enlarge(t, second, 200)
	key := strings.Repeat("0123456789abcdef", 4)
	const probe = "the probe that only the volume shows"
	with := func(o *vm.Options) { o.Second = second }
	card := cardOf(t, sharedBuild(t, "luks.yaml"))
	configure(t, card, "hostname: attic\nvolume: {on: disk, device: /dev/vdb, format: blank, encryption: {key: '"+key+"'}}\n")
	p := boot(t, card, with)
	p.prompt()
	p.works("mount | grep '/dev/mapper/pikelet-volume on /var/lib/rancher type ext4'")
	p.works("for i in $(seq 1000); do echo '" + probe + "'; done > /var/lib/rancher/kept && sync")
	p.run("pikeletd status", "volume  on disk, /dev/vdb, encrypted")
	// A Pi without AES instructions: the virtual one has them.
	p.works("modprobe loop && truncate -s 64M /run/adiantum && printf k | cryptsetup --batch-mode luksFormat --type luks2 " +
		"--key-file - --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --cipher xchacha12,aes-adiantum-plain64 --key-size 256 " +
		"--sector-size 4096 /run/adiantum && printf k | cryptsetup open --key-file - /run/adiantum a && " +
		"dd if=/dev/zero of=/dev/mapper/a bs=1M count=8 && cryptsetup close a && rm /run/adiantum")
	p.works("rc-service -D pikelet-volume stop && [ ! -e /dev/mapper/pikelet-volume ]")
	p.works("printf " + key + " | cryptsetup open --readonly --key-file - /dev/vdb x && " +
		"dumpe2fs -h /dev/mapper/x | grep 'state: *clean' && ! dumpe2fs -h /dev/mapper/x | grep needs_recovery && cryptsetup close x")
	p.off()

	raw, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte(probe)) || bytes.Contains(raw, []byte("pikelet-files.json")) {
		t.Error("the disk shows what is on the volume")
	}
	out, err := exec.Command("cryptsetup", "luksDump", second).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "attic") || !strings.Contains(string(out), "pbkdf2") {
		t.Errorf("cryptsetup says of the disk: %v\n%s", err, out)
	}
	for _, c := range []struct {
		key   string
		opens bool
	}{{key, true}, {strings.Repeat("0", 64), false}} {
		cmd := exec.Command("cryptsetup", "open", "--test-passphrase", "--key-file", "-", second)
		cmd.Stdin = strings.NewReader(c.key)
		if out, err := cmd.CombinedOutput(); (err == nil) != c.opens {
			t.Errorf("with the key %s: %v: %s", c.key, err, out)
		}
	}

	configure(t, card, "hostname: attic\nvolume: {on: disk, device: /dev/vdb, format: blank, encryption: {by: passphrase}}\n")
	p = boot(t, card, with)
	p.expect("THE VOLUME IS MISSING: the volume waits for its passphrase")
	p.prompt()
	p.run("echo not the passphrase | pikeletd volume unlock", "the key does not open it")
	p.works("echo long enough to be new | pikeletd volume unlock --new 2>&1 | grep 'has a passphrase already'")
	p.run("echo "+key+" | pikeletd volume unlock", "the volume is open")
	p.works("[ $(grep -c '" + probe + "' /var/lib/rancher/kept) = 1000 ]")
	p.run("pikeletd reset --volume --yes", "and the volume on disk", "Restarting system")
	p.Close()
	if head := readCard(t, second, 0, 16<<20); bytes.Count(head, []byte{0}) != len(head) {
		t.Error("the disk still has a header or keys after a reset")
	}
}

// TestEncryptedVolumeOnISCSI: a LUN is encrypted too, and closed before the node
// logs out, under writes and when the target is gone.
func TestEncryptedVolumeOnISCSI(t *testing.T) {
	t.Parallel()
	if !full.Tests {
		t.Skip("TestEncryptedVolume and TestVolumeOnISCSI have its parts")
	}
	key := strings.Repeat("0123456789abcdef", 4)
	n := newNAS(t, 256)
	card := cardOf(t, sharedBuild(t, "luks.yaml"))
	configure(t, card, n.config("attic", ", format: blank, encryption: {key: '"+key+"'}"))
	p := boot(t, card)
	p.prompt()
	p.run("pikeletd status", "volume  on iscsi, /dev/sda, encrypted")
	p.run(counting, "synced:20\r")
	p.off()
	if strings.Contains(p.Output(), "giving them up") {
		t.Error("the volume was not closed")
	}
	out, err := exec.Command("cryptsetup", "luksDump", n.disk).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "attic") {
		t.Errorf("cryptsetup says of the LUN: %v\n%s", err, out)
	}
	before, _, _ := strings.Cut(p.Output(), "Closing the volume")
	done := lastSynced(t, before)

	p = boot(t, card)
	p.prompt()
	p.counted(done)
	p.run(counting, fmt.Sprintf("synced:%d\r", done+20))
	n.stop()
	p.run("pikeletd poweroff", "reboot: Power down")
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(p.Output(), "giving them up") {
		t.Error("the node did not say that it gave up the last writes")
	}
}
