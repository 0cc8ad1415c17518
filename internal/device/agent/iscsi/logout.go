package iscsi

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pikelet-os/pikelet/internal/device/agent/command"
	"github.com/pikelet-os/pikelet/internal/device/agent/sysfs"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// GiveUp ends the sessions whose target does not answer, so that what waits for
// them fails now instead of after a day.
func GiveUp(out io.Writer) {
	all, _ := filepath.Glob("/sys/class/iscsi_session/session*")
	for _, s := range all {
		if sysfs.Read(s+"/state") == "LOGGED_IN" {
			continue // it is slow, not gone
		}
		name := sysfs.Read(s + "/targetname")
		if _, err := iscsiadm("-m", "node", "-T", name, "--logout"); err != nil {
			fmt.Fprintf(out, "pikelet: ending the session with %s: %v\n", name, err)
		}
	}
}

// Logout logs out of the targets of a node config. Sessions of CSI drivers stay.
func Logout(cfg *nodeconfig.Config) error {
	var errs []error
	for _, t := range cfg.ISCSI.Targets {
		if len(sessionsOf(t.Name)) == 0 {
			continue
		}
		if _, err := iscsiadm("-m", "node", "-T", t.Name, "--logout"); err != nil && command.ExitStatus(err) != errNoObjects {
			errs = append(errs, fmt.Errorf("logging out of %s: %w", t.Name, err))
		}
	}
	return errors.Join(errs...)
}

// TakeOffline takes the disks of the remaining iSCSI sessions offline. Network and
// iscsid are gone by now: the kernel would wait for them for as long as the session
// allows, a day, when it flushes disks before it stops.
func TakeOffline() {
	for _, l := range LUNs() {
		os.WriteFile("/sys/block/"+l.Device+"/device/state", []byte("offline"), 0)
	}
}
