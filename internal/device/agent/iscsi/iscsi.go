// Package iscsi logs in to targets through open-iscsi and finds the disks they
// export.
package iscsi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/command"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// loginTime is how long one attempt to log in may take. A target that is
// down is asked again later; nothing waits for it for longer.
const loginTime = 20 * time.Second

// Exit statuses of iscsiadm (docs/platform.md 8.3).
const (
	errSessionExists = 15
	errNoObjects     = 21
)

// iscsiadm runs iscsiadm, which talks to iscsid, and returns what it printed.
func iscsiadm(args ...string) (string, error) {
	ctx, stop := context.WithTimeout(context.Background(), loginTime)
	defer stop()
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(ctx, "iscsiadm", args...)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", fmt.Errorf("no answer within %v", loginTime)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, command.OneLine(out.String()+" "+complaints.String()))
	}
	return out.String(), nil
}

// Login logs in to a target, at the first of its portals that answers. Where
// there is a session, it sees to its record.
func (in Initiator) Login(t nodeconfig.Target) error {
	if len(in.sessions(t.Name)) > 0 {
		return in.keepRecords(t)
	}
	var errs []error
	for _, text := range t.Portals {
		portal, err := nodeconfig.ParsePortal(text)
		if err == nil {
			err = in.loginAt(t.Name, portal.String(), t.CHAP)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("target %s at %s: %w", t.Name, text, err))
	}
	return errors.Join(errs...)
}

// keepRecords gives the records of a target that has a session our settings
// again, where somebody wrote them anew: every discovery does, one of a CSI
// driver's too (open-iscsi/open-iscsi#58, #286). With startup manual, the stop
// of iscsid would log the session out under the volume.
func (in Initiator) keepRecords(t nodeconfig.Target) error {
	var errs []error
	for _, text := range t.Portals {
		portal, err := nodeconfig.ParsePortal(text)
		if err == nil {
			err = in.changeRecord(filepath.Join("nodes", t.Name), portal.String(), settings(t.CHAP))
		}
		// Only portals that were tried have one.
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("the record of %s at %s: %w", t.Name, text, err))
		}
	}
	return errors.Join(errs...)
}

// KeepRecords sees to the records of all targets that have a session.
func KeepRecords(cfg *nodeconfig.Config) error {
	in := Open()
	var errs []error
	for _, t := range cfg.ISCSI.Targets {
		if len(in.sessions(t.Name)) > 0 {
			errs = append(errs, in.keepRecords(t))
		}
	}
	return errors.Join(errs...)
}

// loginAt makes a record of a target and logs in to it.
func (in Initiator) loginAt(target, portal string, h nodeconfig.CHAP) error {
	// Records of targets are made here rather than by discovery: what a NAS
	// says its addresses are need not be how this node reaches it.
	if err := targetName(target); err != nil {
		return err
	}
	if _, err := in.run("-m", "node", "-T", target, "-p", portal, "-o", "new"); err != nil {
		return fmt.Errorf("making a record: %w", err)
	}
	return in.loginWith(target, portal, h)
}

// loginWith logs in to a target there is a record of.
func (in Initiator) loginWith(target, portal string, h nodeconfig.CHAP) error {
	if err := targetName(target); err != nil {
		return err
	}
	if err := in.changeRecord(filepath.Join("nodes", target), portal, settings(h)); err != nil {
		return fmt.Errorf("changing its record: %w", err)
	}
	if _, err := in.run("-m", "node", "-T", target, "-p", portal, "--login"); err != nil && command.ExitStatus(err) != errSessionExists {
		return fmt.Errorf("logging in: %w", err)
	}
	return nil
}

// targetName refuses what cannot be a directory of records: a network named it.
func targetName(target string) error {
	if filepath.Base(target) != target || target == ".." || strings.HasPrefix(target, "-") {
		return fmt.Errorf("invalid target name %q", target)
	}
	return nil
}

// Discover asks a portal which targets it has, and logs in to all.
func (in Initiator) Discover(d nodeconfig.Discovery) error {
	portal, err := nodeconfig.ParsePortal(d.Portal)
	if err != nil {
		return err
	}
	record := []string{"-m", "discoverydb", "-t", "sendtargets", "-p", portal.String()}
	if _, err := in.run(append(record, "-o", "new")...); err != nil {
		return fmt.Errorf("making a record: %w", err)
	}
	if chap := chapSettings("discovery.sendtargets.auth.", d.CHAP); len(chap) > 0 {
		if err := in.changeRecord("send_targets", portal.String(), chap); err != nil {
			return fmt.Errorf("changing the record of %s: %w", d.Portal, err)
		}
	}
	// Without nonpersistent, iscsiadm would write the records of all targets anew,
	// also of those that have a session.
	out, err := in.run(append(record, "--discover", "-o", "nonpersistent")...)
	if err != nil {
		return fmt.Errorf("discovering the targets of %s: %w", d.Portal, err)
	}
	var errs []error
	for _, line := range strings.Split(out, "\n") {
		f := strings.Fields(line) // 10.0.0.5:3260,1 iqn...
		if len(f) != 2 || len(in.sessions(f[1])) > 0 {
			continue
		}
		at, _, _ := strings.Cut(f[0], ",")
		if err := in.loginAt(f[1], at, d.LoginCHAP()); err != nil {
			errs = append(errs, fmt.Errorf("%s at %s: %w", f[1], at, err))
		}
	}
	return errors.Join(errs...)
}
