package iscsi

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ClaimDir is where the kubelet's iSCSI plugin has a directory for each volume
// that it holds (pkg/volume/iscsi of kubernetes/kubernetes, makePDNameInternal).
// The name of the interface is ours, which none of the kubelet's has.
const ClaimDir = "/var/lib/kubelet/plugins/kubernetes.io/iscsi/iface-pikelet"

// Claim makes directories in dir for the LUNs of targets that the node itself is
// logged in to, and removes all others in it. The kubelet logs out of a target
// when a pod's volume on it was the last (isSessionBusy counts these
// directories), and would take the node's own volume on it away.
func Claim(dir string, luns []LUN, targets []string) error {
	want := map[string]bool{}
	for _, l := range luns {
		if slices.Contains(targets, l.Target) {
			want[l.claim()] = true
		}
	}
	there, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range there {
		if !want[e.Name()] {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	for name := range want {
		errs = append(errs, os.MkdirAll(filepath.Join(dir, name), 0o750))
	}
	return errors.Join(errs...)
}

// claim returns the name of a LUN's directory: the portal as it is written in a
// PersistentVolume, with brackets around an IPv6 address.
func (l LUN) claim() string {
	portal := l.portal
	if i := strings.LastIndexByte(portal, ':'); strings.Contains(portal[:i], ":") {
		portal = "[" + portal[:i] + "]" + portal[i:]
	}
	return portal + "-" + l.Target + "-lun-" + l.Number
}
