// Package node describes one machine: what its boot was, and in time its
// config and its status.
package node

import (
	"encoding/json"
	"fmt"

	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Places in the root that the builder fills and the node looks for.
const (
	// AgentFile is pikeletd.
	AgentFile = "/usr/sbin/pikeletd"
	// BackupProgram is the program of the overlay backup.
	BackupProgram = "/usr/sbin/pikelet-backup"
	// RootConsoleFile is the program that opens a console to anybody. It is
	// in the roots of images whose spec says console: root, and in no other.
	RootConsoleFile = "/usr/lib/pikelet/root-console"
)

// Written returns the files of /etc that pikeletd may write anew on a boot;
// apk in the image is told to expect them changed.
func Written() []string {
	return []string{"/etc/chrony/chrony.conf", "/etc/conf.d/iscsid", "/etc/conf.d/killprocs", "/etc/conf.d/sshd", "/etc/conf.d/wpa_supplicant",
		"/etc/doas.conf", "/etc/dropbear/dropbear_ed25519_host_key", "/etc/group", "/etc/hostname", "/etc/hosts", "/etc/inittab",
		"/etc/iscsi/initiatorname.iscsi", "/etc/iscsi/iscsid.conf", "/etc/localtime", "/etc/machine-id",
		"/etc/modules-load.d/node.conf", "/etc/motd",
		"/etc/network/interfaces", "/etc/passwd", "/etc/rancher/k3s/config.yaml", "/etc/rancher/k3s/registries.yaml",
		"/etc/rancher/node/password", "/etc/resolv.conf", "/etc/shadow", "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub",
		"/etc/ssh/sshd_config.d/pikelet.conf", "/etc/sysctl.d/90-node.conf", "/etc/timezone", "/etc/udhcpc/udhcpc.conf",
		"/etc/wpa_supplicant/wpa_supplicant.conf"}
}

// BootFile is where /init leaves Boot for the programs of the root.
const BootFile = "/run/pikelet/boot.json"

// Boot says how this machine came up.
type Boot struct {
	Stream  string       `json:"stream"`
	Release string       `json:"release"`
	BuildID string       `json:"buildID"`
	Epoch   int64        `json:"epoch"`
	Slot    slots.Letter `json:"slot"`
	Kind    slots.Kind   `json:"kind"`
	Disk    string       `json:"disk"`             // the device with the slot, such as /dev/mmcblk0
	Server  string       `json:"server,omitempty"` // host:port of the boot server, where there is no disk
	Device  string       `json:"device,omitempty"` // and the Ethernet device that leads there
	Root    string       `json:"rootHash"`         // hex, what dm-verity holds the root to
	Signed  string       `json:"signed"`           // digest of the OCI manifest whose signature was good
	// Keys are the public keys, PEM, that this image trusts: for the next one.
	Keys []string `json:"keys"`
	// Failed says why boots before this one failed, a line for each slot:
	// the reason for a rescue, or what became of a trial.
	Failed string `json:"failed,omitempty"`
	// Watchdog is the process that feeds the hardware watchdog; 0 for none.
	Watchdog int     `json:"watchdog,omitempty"`
	Seconds  float64 `json:"initSeconds"` // from the start of /init to the hand-over
}

// Encode returns the bytes of BootFile.
func (b Boot) Encode() ([]byte, error) { return json.MarshalIndent(b, "", " ") }

// DecodeBoot reads BootFile.
func DecodeBoot(b []byte) (Boot, error) {
	var boot Boot
	if err := json.Unmarshal(b, &boot); err != nil {
		return boot, fmt.Errorf("reading %s: %w", BootFile, err)
	}
	return boot, nil
}
