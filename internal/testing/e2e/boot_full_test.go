//go:build full

package e2e

import (
	"testing"
)

// TestStarterProgramsRun runs each program of the repository once and
// starts its services: their libraries are there and their scripts work.
func TestStarterProgramsRun(t *testing.T) {
	t.Parallel()
	all, err := buildFilled(t, "full.yaml", t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	p := boot(t, all.Disk)
	p.prompt()
	for _, command := range []string{
		"dropbear -V", "chronyd -v", "iscsiadm -V", "nft -v", "mkfs.ext4 -V", "containerd -v", "runc -v", "wpa_supplicant -v",
		"lsblk -V", "findmnt -V", "blkid -V", "[ -u /usr/bin/doas ]",
		"iptables -V | grep nf_tables",
		"iptables -t nat -A POSTROUTING -j MASQUERADE && iptables -t nat -S | grep MASQUERADE",
		"modprobe iscsi_tcp && grep ^iscsi_tcp /proc/modules",
		"grep 'BEGIN CERTIFICATE' /etc/ssl/cert.pem",
		"truncate -s 64M /var/d && mkfs.ext4 -q /var/d && mount -t ext4 -o loop /var/d /mnt && grep '/mnt ext4' /proc/mounts",
	} {
		p.works(command)
	}
	for _, service := range all.Plan.Image.Services["default"] {
		p.works("rc-service " + service + " status")
	}
}

// TestSmallCompressionBoots boots a root compressed as small as it gets.
func TestSmallCompressionBoots(t *testing.T) {
	t.Parallel()
	p := boot(t, variant(t, "console: root\n", "console: root\ncompression: small\n").Disk)
	p.prompt()
	p.works("sha256sum $(find /usr /lib -type f) >/dev/null")
	p.off()
}
