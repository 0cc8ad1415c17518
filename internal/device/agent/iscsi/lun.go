package iscsi

import (
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/agent/sysfs"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// sessionsOf returns the kernel's directories of the sessions with a target.
func sessionsOf(target string) []string {
	all, _ := filepath.Glob("/sys/class/iscsi_session/session*")
	var list []string
	for _, s := range all {
		if name, err := os.ReadFile(s + "/targetname"); err == nil && strings.TrimSpace(string(name)) == target {
			list = append(list, s)
		}
	}
	return list
}

// LUN is one disk of an iSCSI session.
type LUN struct {
	Target, portal string // ADDRESS:PORT, without brackets, as udev has it
	Number         string
	Device         string // sda
}

// newLUN returns a disk of a session; place is HOST:CHANNEL:TARGET:LUN.
func newLUN(target, address, port, place, device string) LUN {
	return LUN{target, address + ":" + port, place[strings.LastIndexByte(place, ':')+1:], device}
}

// LUNs returns the disks of all sessions, as the kernel knows them.
func LUNs() []LUN {
	var list []LUN
	sessions, _ := filepath.Glob("/sys/class/iscsi_session/session*")
	for _, s := range sessions {
		name := sysfs.Read(s + "/targetname")
		number := strings.TrimPrefix(filepath.Base(s), "session")
		at := "/sys/class/iscsi_connection/connection" + number + ":0/"
		address, port := sysfs.Read(at+"persistent_address"), sysfs.Read(at+"persistent_port")
		blocks, _ := filepath.Glob(s + "/device/target*/*/block/*")
		for _, b := range blocks {
			place := filepath.Base(filepath.Dir(filepath.Dir(b))) // host:channel:target:lun
			list = append(list, newLUN(name, address, port, place, filepath.Base(b)))
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Device < list[j].Device })
	return list
}

// Sessions returns all iSCSI sessions of the node, those of CSI drivers too.
func Sessions() []node.Session {
	var list []node.Session
	all, _ := filepath.Glob("/sys/class/iscsi_session/session*")
	for _, dir := range all {
		s := node.Session{Target: sysfs.Read(dir + "/targetname"), State: sysfs.Read(dir + "/state")}
		disks, _ := filepath.Glob(dir + "/device/target*/*/block/*")
		for _, d := range disks {
			s.Disks = append(s.Disks, "/dev/"+filepath.Base(d))
		}
		list = append(list, s)
	}
	return list
}
