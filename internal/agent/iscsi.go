package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/node/config"
)

// loginTime is how long one attempt to log in may take. A target that is
// down is asked again later; nothing waits for it for longer.
const loginTime = 20 * time.Second

// iSCSI's own words for "it is there already" and "there is nothing"
// (FACTS 8.3).
const (
	errSessionExists = 15
	errNoObjects     = 21
)

// iscsiadm runs iscsiadm, which talks to iscsid.
func iscsiadm(args ...string) error {
	ctx, stop := context.WithTimeout(context.Background(), loginTime)
	defer stop()
	out, err := exec.CommandContext(ctx, "iscsiadm", args...).CombinedOutput()
	if ctx.Err() != nil {
		return fmt.Errorf("no answer within %v", loginTime)
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, oneLine(string(out)))
	}
	return nil
}

// exitCode returns a program's exit status, or -1 where it has none.
func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// settings are what every session of ours has besides who logs in. An outage
// of a NAS is waited for, for a day: programs hang, which is better than
// filesystems that turn read-only and databases that tear. onboot keeps the
// service's own stop script from logging the session out under the volume
// (FACTS 8.1, 8.2).
func settings(h config.CHAP) [][2]string {
	list := [][2]string{
		{"node.startup", "onboot"},
		{"node.session.timeo.replacement_timeout", "86400"},
		{"node.session.initial_login_retry_max", "1"},
		{"node.conn[0].timeo.login_timeout", "10"},
	}
	return append(list, chapSettings("node.session.auth.", h)...)
}

func chapSettings(prefix string, h config.CHAP) [][2]string {
	if h.User == "" {
		return nil
	}
	list := [][2]string{{prefix + "authmethod", "CHAP"}, {prefix + "username", h.User}, {prefix + "password", h.Password}}
	if h.MutualUser != "" {
		list = append(list, [2]string{prefix + "username_in", h.MutualUser}, [2]string{prefix + "password_in", h.MutualPassword})
	}
	return list
}

// login logs in to a target, at the first of its portals that answers.
func login(t config.Target) error {
	if len(sessionsOf(t.Name)) > 0 {
		return nil
	}
	var errs []error
	for _, text := range t.Portals {
		portal, err := config.ParsePortal(text)
		if err == nil {
			err = loginAt(t.Name, portal, t.CHAP)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s at %s: %w", t.Name, text, err))
	}
	return errors.Join(errs...)
}

func loginAt(name string, portal netip.AddrPort, h config.CHAP) error {
	record := []string{"-m", "node", "-T", name, "-p", portal.String()}
	// Records of targets are made here rather than by discovery: what a NAS
	// says its addresses are need not be how this node reaches it.
	if err := iscsiadm(append(record, "-o", "new")...); err != nil {
		return fmt.Errorf("making a record: %w", err)
	}
	return loginWith(record, h)
}

func loginWith(record []string, h config.CHAP) error {
	for _, s := range settings(h) {
		if err := iscsiadm(append(record, "-o", "update", "-n", s[0], "-v", s[1])...); err != nil {
			return fmt.Errorf("setting %s: %w", s[0], err)
		}
	}
	if err := iscsiadm(append(record, "--login")...); err != nil && exitCode(err) != errSessionExists {
		return fmt.Errorf("logging in: %w", err)
	}
	return nil
}

// discover asks a portal which targets it has, and logs in to all.
func discover(d config.Discovery) error {
	portal, err := config.ParsePortal(d.Portal)
	if err != nil {
		return err
	}
	record := []string{"-m", "discoverydb", "-t", "sendtargets", "-p", portal.String()}
	if err := iscsiadm(append(record, "-o", "new")...); err != nil {
		return fmt.Errorf("making a record: %w", err)
	}
	for _, s := range chapSettings("discovery.sendtargets.auth.", d.CHAP) {
		if err := iscsiadm(append(record, "-o", "update", "-n", s[0], "-v", s[1])...); err != nil {
			return err
		}
	}
	ctx, stop := context.WithTimeout(context.Background(), loginTime)
	defer stop()
	out, err := exec.CommandContext(ctx, "iscsiadm", append(record, "--discover")...).Output()
	if err != nil {
		return fmt.Errorf("%s: asking which targets there are: %w", d.Portal, err)
	}
	var errs []error
	for _, line := range strings.Split(string(out), "\n") {
		f := strings.Fields(line) // 10.0.0.5:3260,1 iqn...
		if len(f) != 2 || len(sessionsOf(f[1])) > 0 {
			continue
		}
		at, _, _ := strings.Cut(f[0], ",")
		if err := loginWith([]string{"-m", "node", "-T", f[1], "-p", at}, d.CHAP); err != nil {
			errs = append(errs, fmt.Errorf("%s at %s: %w", f[1], at, err))
		}
	}
	return errors.Join(errs...)
}

// sessionsOf returns the kernel's folders of the sessions with a target.
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

// lun is one disk of an iSCSI session.
type lun struct {
	target, portal string // ip:port
	number         string
	device         string // sda
}

// luns returns the disks of all sessions, as the kernel knows them.
func luns() []lun {
	var list []lun
	sessions, _ := filepath.Glob("/sys/class/iscsi_session/session*")
	for _, s := range sessions {
		name := readTrimmed(s + "/targetname")
		number := strings.TrimPrefix(filepath.Base(s), "session")
		at := "/sys/class/iscsi_connection/connection" + number + ":0/"
		address, port := readTrimmed(at+"persistent_address"), readTrimmed(at+"persistent_port")
		if strings.Contains(address, ":") {
			address = "[" + address + "]"
		}
		blocks, _ := filepath.Glob(s + "/device/target*/*/block/*")
		for _, b := range blocks {
			place := filepath.Base(filepath.Dir(filepath.Dir(b))) // host:channel:target:lun
			list = append(list, lun{name, address + ":" + port, place[strings.LastIndexByte(place, ':')+1:], filepath.Base(b)})
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].device < list[j].device })
	return list
}

func readTrimmed(name string) string {
	b, _ := os.ReadFile(name)
	return strings.TrimSpace(string(b))
}

// byPath is where CSI drivers look for the disks they logged in to. udev's
// rules make the links; mdev has none, so we do (FACTS 8.3).
const byPath = "/dev/disk/by-path"

// linkDisks makes the links of all disks of iSCSI sessions, and takes away
// those whose disk is gone.
func linkDisks() error {
	want := map[string]string{}
	for _, l := range luns() {
		name := fmt.Sprintf("ip-%s-iscsi-%s-lun-%s", l.portal, l.target, l.number)
		want[name] = l.device
		parts, _ := filepath.Glob("/sys/class/block/" + l.device + "/" + l.device + "*")
		for _, p := range parts {
			part := filepath.Base(p)
			want[name+"-part"+strings.TrimPrefix(strings.TrimPrefix(part, l.device), "p")] = part
		}
	}
	if len(want) > 0 {
		if err := os.MkdirAll(byPath, 0o755); err != nil {
			return err
		}
	}
	there, _ := filepath.Glob(byPath + "/ip-*-iscsi-*")
	for _, name := range there {
		base := filepath.Base(name)
		if to, err := os.Readlink(name); err == nil && want[base] != "" && to == "../../"+want[base] {
			delete(want, base)
			continue
		}
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	var errs []error
	for name, device := range want {
		errs = append(errs, os.Symlink("../../"+device, filepath.Join(byPath, name)))
	}
	return errors.Join(errs...)
}
