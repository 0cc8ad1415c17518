package iscsi

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// Initiator is open-iscsi: its program iscsiadm, and where that keeps records
// of targets. Secrets go into records, which only root reads; the arguments of
// a program can be read by every user of the node.
type Initiator struct {
	run func(args ...string) (string, error)
	// dirs may hold records, by how open-iscsi was built; the first one that does is
	// used.
	dirs []string
	// sessions returns the kernel's directories of the sessions with a target.
	sessions func(target string) []string
}

// Open returns the open-iscsi of the node.
func Open() Initiator {
	return Initiator{run: iscsiadm, dirs: []string{"/etc/iscsi", "/var/lib/iscsi"}, sessions: sessionsOf}
}

// recordEnd is the last line of a record. A record is lines NAME = VALUE
// between two comments (idbm_print of usr/idbm.c in open-iscsi).
const recordEnd = "# END RECORD"

// settings are what every session of ours has besides who logs in. An outage
// of a NAS is waited for, for a day: programs hang, which is better than
// filesystems that turn read-only and databases that tear. onboot keeps the
// service's own stop script from logging the session out under the volume
// (docs/platform.md 8.1, 8.2).
func settings(h nodeconfig.CHAP) [][2]string {
	list := [][2]string{
		{"node.startup", "onboot"},
		{"node.session.timeo.replacement_timeout", "86400"},
		{"node.session.initial_login_retry_max", "1"},
		{"node.conn[0].timeo.login_timeout", "10"},
	}
	return append(list, chapSettings("node.session.auth.", h)...)
}

func chapSettings(prefix string, h nodeconfig.CHAP) [][2]string {
	if h.User == "" {
		return nil
	}
	list := [][2]string{{prefix + "authmethod", "CHAP"}, {prefix + "username", h.User}, {prefix + "password", h.Password}}
	if h.MutualUser != "" {
		list = append(list, [2]string{prefix + "username_in", h.MutualUser}, [2]string{prefix + "password_in", h.MutualPassword})
	}
	return list
}

// setRecord puts settings into the text of a record, in place of what it says
// of them.
func setRecord(record []byte, settings [][2]string) ([]byte, error) {
	head, tail, ok := strings.Cut(string(record), recordEnd)
	if !ok {
		return nil, fmt.Errorf("no line %q", recordEnd)
	}
	var lines []string
	at := map[string]int{}
	for _, line := range strings.SplitAfter(head, "\n") {
		if name, _, is := strings.Cut(line, " = "); is {
			at[name] = len(lines)
		}
		lines = append(lines, line)
	}
	for _, s := range settings {
		if strings.ContainsAny(s[1], "\n\x00") {
			return nil, fmt.Errorf("the value for %s has more than one line", s[0])
		}
		line := s[0] + " = " + s[1] + "\n"
		if i, there := at[s[0]]; there {
			lines[i] = line
		} else {
			lines = append(lines, line)
		}
	}
	return []byte(strings.Join(lines, "") + recordEnd + tail), nil
}

// changeRecord changes the records of a portal in a directory below one of
// in.dirs. Only root reads them, before and after. The error is fs.ErrNotExist
// where there is none.
func (in Initiator) changeRecord(below, portal string, settings [][2]string) error {
	var places []string
	for _, dir := range in.dirs {
		place := filepath.Join(dir, below)
		places = append(places, place)
		names, err := findRecords(place, portal)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := changeOne(dir, name, settings); err != nil {
				return fmt.Errorf("changing record %q: %w", name, err)
			}
		}
		return nil
	}
	return fmt.Errorf("record of %s in %s: %w", portal, strings.Join(places, " or "), fs.ErrNotExist)
}

func changeOne(dir, name string, settings [][2]string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	changed, err := setRecord(b, settings)
	if err != nil {
		return err
	}
	if st, err := os.Stat(name); err == nil && st.Mode().Perm() == 0o600 && bytes.Equal(changed, b) {
		return nil
	}
	return replaceRecord(filepath.Join(dir, "pikelet.new"), name, changed)
}

// replaceRecord writes a record as tmp first: others may list the directory of
// records meanwhile.
func replaceRecord(tmp, name string, b []byte) error {
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// findRecords returns the files with records of a portal in dir: a discovery
// leaves one beside the one that is there. Each is called ADDRESS,PORT; or, with
// the number of the target's portal group, it is in a directory
// ADDRESS,PORT,GROUP, under the name of an interface or as st_config.
func findRecords(dir, portal string) ([]string, error) {
	host, port, err := net.SplitHostPort(portal)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		parts := strings.Split(e.Name(), ",")
		if len(parts) < 2 || parts[1] != port || !sameHost(parts[0], host) {
			continue
		}
		name := filepath.Join(dir, e.Name())
		if !e.IsDir() {
			found = append(found, name)
			continue
		}
		for _, file := range []string{"default", "st_config"} {
			if b, err := os.ReadFile(filepath.Join(name, file)); err == nil && bytes.Contains(b, []byte(recordEnd)) {
				found = append(found, filepath.Join(name, file))
			}
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("record of %s in %s: %w", portal, dir, fs.ErrNotExist)
	}
	return found, nil
}

// sameHost reports whether two texts name the same host: an IPv6 address has
// several.
func sameHost(a, b string) bool {
	x, err := netip.ParseAddr(a)
	if err != nil {
		return a == b
	}
	y, err := netip.ParseAddr(b)
	return err == nil && x == y
}
