package early

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// otherTypes are what the script mounts later, or never.
var otherTypes = []string{"nfs", "nfs4", "cifs", "ceph", "swap"}

// virtualTypes are filesystems that need no device, which may take its time
// to be there.
var virtualTypes = []string{
	"tmpfs", "proc", "sysfs", "debugfs", "tracefs", "securityfs", "configfs", "bpf", "pstore", "mqueue", "hugetlbfs",
}

// tmpfsOptions are those the kernel takes for tmpfs.
var tmpfsOptions = []string{"size", "mode", "uid", "gid", "nr_inodes"}

// localmount mounts what fstab(5) lists, as far as nothing of it needs a
// device.
func localmount(in input, _ map[string]string) ([]Step, error) {
	mounts := in.read("proc/self/mountinfo")
	var steps []Step
	for i, line := range strings.Split(in.read("etc/fstab"), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		step, err := fstabLine(line, mounts)
		if err != nil {
			return nil, fmt.Errorf("/etc/fstab: line %d: %w: %s", i+1, err, line)
		}
		if step != nil {
			steps = append(steps, *step)
		}
	}
	return steps, nil
}

// fstabLine returns the mount an entry asks for, or nil where the script would
// do nothing.
func fstabLine(line, mounts string) (*mountStep, error) {
	f := strings.Fields(line)
	if len(f) < 4 || strings.ContainsAny(line, `\"'#`) {
		return nil, errors.New("the entry has fewer than four plain fields")
	}
	target, fstype, options := f[1], f[2], strings.Split(f[3], ",")
	if slices.Contains(options, "noauto") || slices.Contains(otherTypes, fstype) {
		return nil, nil
	}
	if target == "/" {
		// /init shares all mounts when it hands over.
		if slices.Contains(options, "rshared") {
			return nil, nil
		}
		return nil, errors.New("the entry remounts the root")
	}
	if !slices.Contains(virtualTypes, fstype) {
		return nil, errors.New("the mount may wait for a device")
	}
	if !strings.HasPrefix(target, "/") || mountedIn(mounts, target) {
		return nil, errors.New("something is mounted there")
	}
	m := &mountStep{source: f[0], target: target, fstype: fstype}
	var data []string
	for _, o := range options {
		key, _, _ := strings.Cut(o, "=")
		switch flag, is := mountFlag(o); {
		case is:
			m.flags |= flag
		case fstype == "tmpfs" && slices.Contains(tmpfsOptions, key) && key != o:
			data = append(data, o)
		default:
			return nil, fmt.Errorf("unsupported option %q", o)
		}
	}
	m.data = strings.Join(data, ",")
	return m, nil
}

// mountFlag returns the kernel's flag for an option; 0 for those that are what
// the kernel does anyway.
func mountFlag(option string) (flag uintptr, is bool) {
	if option == "defaults" || option == "rw" || option == "auto" {
		return 0, true
	}
	for _, f := range mountFlags {
		if f.name == option {
			return f.flag, true
		}
	}
	return 0, false
}
