package iscsi

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestClaim: the kubelet finds the node's own LUNs among the volumes that are in
// use, and none that the node has left.
func TestClaim(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "plugins", "iface-pikelet")
	own := newLUN("iqn.2026-01.lan.nas:attic", "10.0.0.2", "3260", "2:0:0:1", "sda")
	six := newLUN("iqn.2026-01.lan.nas:six", "fd00::2", "3260", "3:0:0:7", "sdb")
	pods := newLUN("iqn.2026-01.lan.nas:pods", "10.0.0.2", "3260", "4:0:0:1", "sdc")
	names := func() (list []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			list = append(list, e.Name())
		}
		return list
	}
	for _, c := range []struct {
		luns []LUN
		want []string
	}{
		{[]LUN{own, six, pods}, []string{"10.0.0.2:3260-iqn.2026-01.lan.nas:attic-lun-1", "[fd00::2]:3260-iqn.2026-01.lan.nas:six-lun-7"}},
		{[]LUN{own, pods}, []string{"10.0.0.2:3260-iqn.2026-01.lan.nas:attic-lun-1"}},
		{nil, nil},
	} {
		if err := Claim(dir, c.luns, []string{own.Target, six.Target}); err != nil {
			t.Fatal(err)
		}
		if got := names(); !slices.Equal(got, c.want) {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// TestClaimOfNothing: a node without iSCSI gets no directory.
func TestClaimOfNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	if err := Claim(dir, nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory is there")
	}
}
