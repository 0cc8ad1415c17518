package early

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// quiet are the flags of a filesystem that holds no programs.
const quiet = unix.MS_NOSUID | unix.MS_NOEXEC

func devfs(in input, _ map[string]string) ([]Step, error) {
	steps := []Step{
		mkdirStep{"/dev/pts", 0o755, 0}, mkdirStep{"/dev/shm", 0o755, 0}, mkdirStep{"/dev/mqueue", 0o755, 0},
		mountStep{source: "devpts", target: "/dev/pts", fstype: "devpts", flags: quiet, data: "gid=5,mode=0620"},
		mountStep{source: "shm", target: "/dev/shm", fstype: "tmpfs", flags: quiet | unix.MS_NODEV, data: "mode=1777"},
	}
	if in.filesystem("mqueue") {
		steps = append(steps, mountStep{source: "mqueue", target: "/dev/mqueue", fstype: "mqueue", flags: quiet | unix.MS_NODEV})
	}
	return append(steps, linkStep{"/proc/self/fd", "/dev/fd"},
		linkStep{"fd/0", "/dev/stdin"}, linkStep{"fd/1", "/dev/stdout"}, linkStep{"fd/2", "/dev/stderr"}), nil
}

// filesystem reports whether the kernel has a filesystem (proc_filesystems(5)).
func (in input) filesystem(name string) bool {
	return slices.Contains(strings.Fields(in.read("proc/filesystems")), name)
}

func dmesg(_ input, conf map[string]string) ([]Step, error) {
	text := conf["dmesg_level"]
	if text == "" {
		text = "1"
	}
	level, err := strconv.Atoi(text)
	if err != nil || level < 1 || level > 8 {
		return nil, fmt.Errorf("dmesg_level: got %q, want 1 to 8", text)
	}
	return []Step{levelStep{level}}, nil
}

// cgroups does what the script does in mode unified, the one that rc.conf may
// ask for.
func cgroups(in input, _ map[string]string) ([]Step, error) {
	const at = "/sys/fs/cgroup"
	if in.exists("sbin/restorecon") {
		return nil, errors.New("/sbin/restorecon has labels to set")
	}
	if !in.exists(at[1:]) || !in.filesystem("cgroup2") {
		return nil, nil
	}
	return []Step{
		mountStep{source: "none", target: at, fstype: "cgroup2", flags: quiet | unix.MS_NODEV, data: "nsdelegate", otherwise: true},
		controllersStep{at},
	}, nil
}

// mdev starts mdev itself, which is one process, and loads modules without
// any.
func mdev(in input, _ map[string]string) ([]Step, error) {
	var steps []Step
	if in.exists("proc/sys/kernel/hotplug") {
		steps = append(steps, writeStep{"/proc/sys/kernel/hotplug", "/sbin/mdev"})
	}
	steps = append(steps, runStep{args: []string{"mdev", "-s"}, mayFail: true})
	return append(steps, in.coldplug()...), nil
}

// modules reads the lists that name one module a line. Lines with parameters
// are left to the script.
func modules(in input, _ map[string]string) ([]Step, error) {
	var names []string
	for _, file := range in.glob("etc/modules", "usr/lib/modules-load.d/*.conf", "etc/modules-load.d/*.conf") {
		list, err := moduleNames(in.read(file))
		if err != nil {
			return nil, fmt.Errorf("/%s: %w", file, err)
		}
		names = append(names, list...)
	}
	return in.loadNamed(names)
}

func moduleNames(text string) ([]string, error) {
	var names []string
	for i, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") || strings.HasPrefix(f[0], ";") {
			continue
		}
		if len(f) > 1 || strings.Trim(f[0], moduleLetters) != "" || f[0][0] == '-' {
			return nil, fmt.Errorf("line %d is more than the name of a module: %s", i+1, line)
		}
		names = append(names, f[0])
	}
	return names, nil
}

// moduleLetters are what names of modules are made of.
const moduleLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

func hostname(in input, _ map[string]string) ([]Step, error) {
	line, _, _ := strings.Cut(in.read("etc/hostname"), "\n")
	name := strings.TrimSpace(line)
	if name == "" {
		name = "localhost"
	}
	if strings.HasPrefix(name, "-") || strings.ContainsAny(name, " \t\\") {
		return nil, fmt.Errorf("/etc/hostname: invalid name %q", line)
	}
	return []Step{hostnameStep{name}}, nil
}

func bootmisc(in input, _ map[string]string) ([]Step, error) {
	return []Step{
		// OpenRC's init.sh would make it so before the script makes it at all.
		mkdirStep{"/run/lock", 0o775, max(in.gid("uucp"), 0)},
		createStep{"/run/utmp", 0o664, in.gid("utmp")},
		mountStep{source: "tmpfs", target: "/tmp", fstype: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=1777"},
		logStep{"/var/log/dmesg"},
	}, nil
}

// gid returns the number of a group, or -1 (group(5)).
func (in input) gid(name string) int {
	for line := range strings.Lines(in.read("etc/group")) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) >= 3 && f[0] == name {
			if n, err := strconv.Atoi(f[2]); err == nil {
				return n
			}
		}
	}
	return -1
}
