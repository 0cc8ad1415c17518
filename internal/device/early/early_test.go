package early

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

var update = flag.Bool("update", false, "write the goldens anew")

const repository = "../../../"

// TestKnownScripts fails when a script of the starter repository changes: read
// it again, see whether what is done for it is still what it does, and only
// then give it its new digest.
func TestKnownScripts(t *testing.T) {
	for _, s := range scripts {
		if !strings.HasPrefix(s.source, starterFiles) {
			continue
		}
		b, err := os.ReadFile(repository + s.source)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		if got := hex.EncodeToString(sum[:]); got != s.sum {
			t.Errorf("%s: digest mismatch: got %s, want %s", s.source, got, s.sum)
		}
	}
}

// file is a file of a test's root.
func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text), Mode: 0o755} }

// root is a root with the starter's scripts, their runlevels and a kernel.
func root(t *testing.T, change ...map[string]string) fstest.MapFS {
	t.Helper()
	m := fstest.MapFS{}
	for level, names := range map[string]string{
		"sysinit": "devfs dmesg mdev", "boot": "modules sysctl hostname bootmisc localmount networking syslog",
	} {
		for _, name := range strings.Fields(names) {
			m["etc/runlevels/"+level+"/"+name] = &fstest.MapFile{Data: []byte("/etc/init.d/" + name), Mode: fs.ModeSymlink | 0o777}
		}
	}
	paths, err := filepath.Glob(repository + starterFiles + "*/etc/init.d/*")
	if err != nil || len(paths) == 0 {
		t.Fatalf("the starter has no scripts: %v", err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		m["etc/init.d/"+filepath.Base(p)] = file(string(b))
	}
	inittab, err := os.ReadFile(repository + "overlays/base/files/etc/inittab")
	if err != nil {
		t.Fatal(err)
	}
	fstab, err := os.ReadFile(repository + "overlays/base/files/etc/fstab")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"etc/inittab": string(inittab), "etc/fstab": string(fstab), "etc/hostname": "pi\n",
		"etc/rc.conf":      "# OpenRC\nrc_tty_number=12\n",
		"etc/conf.d/dmesg": "dmesg_level=4\n", "etc/group": "tty:x:5:\nuucp:x:14:\nutmp:x:406:\n",
		"etc/modules-load.d/a.conf":      "# overlay\nbr_netfilter\n\nnet-pf-1\n",
		"etc/modules-load.d/.a.conf.swp": "\\\n",
		"usr/lib/sysctl.d/00-a.conf":     "net.ipv4.ip_forward = 1\n",
		"etc/sysctl.d/b.conf":            "kernel.panic=10\nnet.ipv4.ip_local_port_range = 1024 65535\n",
		"proc/filesystems":               "nodev\ttmpfs\nnodev\tmqueue\nnodev\tcgroup2\n",
		"proc/self/mountinfo":            "21 1 0:19 / / ro shared:1 - squashfs /dev/dm-1 ro\n",
		"proc/modules":                   "squashfs 1 0 - Live 0x0\n", "proc/cmdline": "console=ttyAMA0 pikelet.slot=a\n",
		"proc/sys/kernel/osrelease": "6.12.0\n",
		"sys/module/compression":    "xz\n", "sys/devices/a/modalias": "virtio:d00000001v00001AF4\n",
		"sys/devices/b/c/modalias": "of:NgpioT(null)Cbrcm,gpio-2711\n",
		"sys/devices/d/modalias":   "dmi:bd02/02/2022:\n", "sys/devices/e/modalias": "usb:v0001p0002\n",
		"lib/modules/6.12.0/modules.dep": "k/virtio_net.ko.xz: k/net_failover.ko.xz k/failover.ko.xz\n" +
			"k/net_failover.ko.xz: k/failover.ko.xz\nk/failover.ko.xz:\nk/br_netfilter.ko.xz: k/bridge.ko.xz\n" +
			"k/bridge.ko.xz:\nk/gpio-a.ko.xz:\nk/gpio-b.ko.xz:\nk/gpio-c.ko.xz:\nk/unix.ko.xz:\n",
		"lib/modules/6.12.0/modules.alias": "# aliases\nalias virtio:d00000001v* virtio_net\nalias of:N*T*Cbrcm,gpio-2711 gpio_a\n" +
			"alias of:N*T*Cbrcm,gpio-27[0-9]* gpio_b\nalias of:N*T*Cbrcm,gpio-2[!0-6]* gpio-c\n" +
			"alias usb:v0001p0003 gpio_a\nalias usb:v0001* usbcore\nalias net-pf-1 unix\n",
		"lib/modules/6.12.0/modules.builtin": "kernel/usbcore.ko\n", "etc/modprobe.d/blacklist.conf": "# no\nblacklist gpio-b\n",
	} {
		m[name] = file(text)
	}
	for _, c := range change {
		for name, text := range c {
			m[name] = file(text)
		}
	}
	return m
}

// TestPlan compares what is done for the starter's services with a golden.
func TestPlan(t *testing.T) {
	got := New(root(t)).String()
	if *update {
		if err := os.WriteFile("testdata/plan.txt", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/plan.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the plan is:\n%swant:\n%s", got, want)
	}
}

// TestLeftServices changes one file at a time, and looks at which services OpenRC
// starts then, beside networking and syslog, and why.
func TestLeftServices(t *testing.T) {
	const unknown = "not one of those known"
	script := func(name string) string { return string(root(t)["etc/init.d/"+name].Data) }
	for name, c := range map[string]struct {
		path, text string
		left       string // names; "all"; or "" for none
		why        string // of the first
	}{
		"unknown script in boot":       {"etc/init.d/hostname", script("hostname") + "\n", "hostname", unknown},
		"unknown script others follow": {"etc/init.d/modules", script("modules") + "\n", "modules bootmisc localmount", unknown},
		"unknown script in sysinit":    {"etc/init.d/dmesg", script("dmesg") + "\n", "all", "it comes after"},
		"new service before another":   {"etc/init.d/networking", "depend() { before hostname; }\n", "hostname", "it comes after networking"},
		"new service before all": {"etc/init.d/syslog", "depend() {\n\tbefore *\n}\n",
			"modules sysctl hostname bootmisc localmount", "after syslog"},
		"order in conf.d":               {"etc/conf.d/networking", "rc_before=\"sysctl\"\n", "sysctl bootmisc", "it comes after networking"},
		"unknown setting in conf.d":     {"etc/conf.d/sysctl", "rc_verbose=yes\n", "sysctl bootmisc", "line 1 sets rc_verbose"},
		"command in conf.d":             {"etc/conf.d/hostname", "echo hi\n", "hostname", "line 1 is more than an assignment"},
		"expansion in conf.d":           {"etc/conf.d/dmesg", "dmesg_level=$(cat /x)\n", "all", "is left"},
		"conf.d for one runlevel":       {"etc/conf.d/hostname.boot", "", "hostname", "is for one runlevel"},
		"rc.conf":                       {"etc/rc.conf", "rc_need=net\n", "all", "line 1 sets rc_need"},
		"rc.conf with a unified cgroup": {"etc/rc.conf", "rc_cgroup_mode=\"unified\"\n", "", ""},
		"rc.conf with a hybrid cgroup":  {"etc/rc.conf", "rc_cgroup_mode=hybrid\n", "all", `sets rc_cgroup_mode to "hybrid"`},
		"rc.conf.d":                     {"etc/rc.conf.d/x.conf", "", "all", "may change how services start"},
		"inittab without -n":            {"etc/inittab", "::sysinit:/sbin/openrc sysinit\n", "all", "openrc -n"},
		"disk in fstab": {
			"etc/fstab", "/dev/sda1 /srv ext4 defaults 0 2\n", "localmount bootmisc", "the mount may wait for a device",
		},
		"root in fstab":            {"etc/fstab", "/dev/root / auto ro 0 0\n", "localmount bootmisc", "the entry remounts the root"},
		"module with parameters":   {"etc/modules", "loop max_loop=8\n", "modules localmount bootmisc", "line 1 is more than"},
		"module that is not there": {"etc/modules", "nosuch\n", "modules localmount bootmisc", "there is no module nosuch"},
		"options of modprobe": {"etc/modprobe.d/x.conf", "options bridge a=1\n", "modules localmount bootmisc",
			"x.conf says options"},
		"module option on the command line": {
			"proc/cmdline", "bridge.a=1", "modules localmount bootmisc", "the kernel command line has bridge.a=1",
		},
		"no unpacking in the kernel":  {"sys/module/compression", "", "modules localmount bootmisc", "the kernel does not unpack"},
		"sysctl with a glob":          {"etc/sysctl.d/x.conf", "net.*.x = 1\n", "sysctl bootmisc", "line 1 is no plain setting"},
		"invalid level of messages":   {"etc/conf.d/dmesg", "dmesg_level=quiet\n", "all", "is left"},
		"host name that is an option": {"etc/hostname", "-F x\n", "hostname", "invalid name"},
	} {
		t.Run(name, func(t *testing.T) {
			p := New(root(t, map[string]string{c.path: c.text}))
			delete(p.Left, "networking")
			delete(p.Left, "syslog")
			got := slices.Sorted(maps.Keys(p.Left))
			want := strings.Fields(c.left)
			if c.left == "all" {
				want = got
				for _, s := range p.Services {
					if slices.Contains([]string{"sysctl", "hostname", "modules"}, s.Name) {
						t.Errorf("%s is done", s.Name)
					}
				}
			}
			slices.Sort(want)
			if !slices.Equal(got, want) || len(p.Left) == 0 && c.left == "all" {
				t.Fatalf("left to OpenRC: got %v, want %v", p.Left, want)
			}
			if first, _, _ := strings.Cut(c.left, " "); c.why != "" && first != "all" && !strings.Contains(p.Left[first], c.why) {
				t.Errorf("%s is left because %q, want %q", first, p.Left[first], c.why)
			} else if first == "all" && !strings.Contains(p.Left["hostname"], c.why) {
				t.Errorf("hostname is left because %q, want %q", p.Left["hostname"], c.why)
			}
		})
	}
}

// TestNeededIsDoneToo: a service that no runlevel names, but another needs.
func TestNeededIsDoneToo(t *testing.T) {
	r := root(t)
	delete(r, "etc/runlevels/boot/localmount")
	delete(r, "etc/runlevels/boot/networking")
	if text := New(r).String(); !strings.Contains(text, "localmount:\nbootmisc:\n") {
		t.Errorf("localmount, which bootmisc needs, is not done before it:\n%s", text)
	}
	delete(r, "etc/init.d/localmount")
	if p := New(r); !strings.Contains(p.Left["bootmisc"], "it needs localmount") {
		t.Errorf("bootmisc is left because %q", p.Left["bootmisc"])
	}
}

func TestFstab(t *testing.T) {
	const mounts = "30 21 0:5 / /dev/shm rw shared:2 - tmpfs shm rw\n"
	for line, want := range map[string]string{
		"tmpfs /mnt tmpfs nosuid,size=4m,mode=0750 0 0":  "mount -t tmpfs -o nosuid,size=4m,mode=0750 tmpfs /mnt",
		"debugfs /sys/kernel/debug debugfs defaults 0 0": "mount -t debugfs -o  debugfs /sys/kernel/debug",
		"nas:/x /srv nfs ro 0 0":                         "nothing",
		"/dev/sda2 none swap sw 0 0":                     "nothing",
		"/dev/sda1 /srv ext4 noauto 0 0":                 "nothing",
		"/dev/root / auto ro,rshared 0 0":                "nothing",
		"LABEL=x /srv ext4 ro 0 0":                       "the mount may wait for a device",
		"tmpfs /dev/shm tmpfs size=1m 0 0":               "something is mounted there",
		"tmpfs /mnt tmpfs huge=always 0 0":               `unsupported option "huge=always"`,
		"debugfs /mnt debugfs mode=0700 0 0":             `unsupported option "mode=0700"`,
		`tmpfs /a\040b tmpfs ro 0 0`:                     "the entry has fewer than four plain fields",
		"tmpfs /mnt tmpfs":                               "the entry has fewer than four plain fields",
	} {
		m, err := fstabLine(line, mounts)
		got := "nothing"
		if err != nil {
			got = err.Error()
		} else if m != nil {
			got = m.String()
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", line, got, want)
		}
	}
}

func TestSysctlSyntax(t *testing.T) {
	for line, want := range map[string]string{
		"a.b = 1": "echo '1' > /proc/sys/a/b", "a.b=1 2\t3": "echo '1 2\t3' > /proc/sys/a/b", " # a.b = 1": "",
		"net.x-y.z\t=\tq ": "echo 'q' > /proc/sys/net/x-y/z",
		"-a.b = 1":         "!", "a/b = 1": "!", "a.b": "!", "a.b = ": "!",
		"a.b == 1": "!", "a.b = 1 # x": "!", "a..b = 1": "!", "a.*.b = 1": "!", "; x": "!", "a = 1": "!", "../x.y = 1": "!",
	} {
		steps, err := sysctlLines(line)
		got := ""
		if err != nil {
			got = "!"
		} else if len(steps) > 0 {
			got = steps[0].String()
		}
		if got != want {
			t.Errorf("%q: got %s, want %s (%v)", line, got, want, err)
		}
	}
}

func TestSettings(t *testing.T) {
	for line, want := range map[string]string{
		"a=1": "1", `a="x y"`: "x y", `a='$x'`: "$x", "a=": "", "  a=b # c": "b",
		"a=$x": "!", `a="$x"`: "!", "a=`x`": "!", `a="x\"y"`: "!", "a=1; b": "!", "export a=1": "!",
		"b=1": "!", "a=1 b": "!", "a='x'y": "!", "c=1": "!",
	} {
		set, err := settings("\n# comment\n"+line, map[string]string{"a": "", "c": "2"})
		got := set["a"]
		if err != nil {
			got = "!"
		}
		if got != want {
			t.Errorf("%s: got %s, want %s (%v)", line, got, want, err)
		}
	}
}

func TestWithoutLevels(t *testing.T) {
	if got, want := withoutLevels("<6>[ 0.1] a <b>\n<12>c\nd"), "[ 0.1] a <b>\nc\nd"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// fake is a machine that notes what is done to it.
type fake struct {
	fails string // of what it refuses, a part
	did   []string
}

func (f *fake) note(format string, args ...any) error {
	s := fmt.Sprintf(format, args...)
	f.did = append(f.did, s)
	if f.fails != "" && strings.Contains(s, f.fails) {
		return errors.New("no " + f.fails)
	}
	return nil
}

func (f *fake) Mkdir(path string, _ fs.FileMode, _ int) error  { return f.note("mkdir %s", path) }
func (f *fake) Link(target, path string) error                 { return f.note("link %s %s", path, target) }
func (f *fake) Create(path string, _ fs.FileMode, _ int) error { return f.note("create %s", path) }
func (f *fake) Write(path, text string) error {
	return f.note("write %s %s", path, strings.TrimSpace(text))
}
func (f *fake) Read(path string) (string, error)  { return "cpu memory\n", f.note("read %s", path) }
func (f *fake) Mounted(path string) (bool, error) { return path == "/dev/shm", nil }
func (f *fake) Hostname(name string) error        { return f.note("hostname %s", name) }
func (f *fake) ConsoleLevel(level int) error      { return f.note("level %d", level) }
func (f *fake) KernelLog() (string, error)        { return "<6>hello\n", nil }
func (f *fake) Load(file string, compressed bool) error {
	return f.note("load %s %v", file, compressed)
}
func (f *fake) Run(args ...string) error { return f.note("run %s", strings.Join(args, " ")) }
func (f *fake) Mount(source, target, _ string, _ uintptr, data string) error {
	return f.note("mount %s %s %s", source, target, data)
}

func TestRun(t *testing.T) {
	p := New(root(t))
	m := &fake{}
	r := p.Run(m)
	if len(r.Done) != len(p.Services) || len(r.Left) != 2 {
		t.Fatalf("done: %v, left: %v", r.Done, r.Left)
	}
	all := strings.Join(m.did, "\n")
	for _, want := range []string{
		"mkdir /run/openrc/started\nlink /run/openrc/started/devfs /etc/init.d/devfs",
		"load /lib/modules/6.12.0/k/failover.ko.xz true\n" +
			"load /lib/modules/6.12.0/k/net_failover.ko.xz true\nload /lib/modules/6.12.0/k/virtio_net.ko.xz true",
		"write /var/log/dmesg hello", "hostname pi",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q was not done:\n%s", want, all)
		}
	}
	if strings.Contains(all, "/dev/shm tmpfs") || strings.Contains(all, "mount shm") {
		t.Errorf("what was mounted was mounted again:\n%s", all)
	}
}

// TestFailureIsLeft: what fails is not marked as started, nor what comes
// after; what may fail in a script may fail here.
func TestFailureIsLeft(t *testing.T) {
	for fails, want := range map[string]string{
		"bridge.ko": "bootmisc localmount modules", "panic": "bootmisc sysctl", "hostname": "hostname", "virtio_net.ko": "", "run mdev": "",
		"link /dev/fd": "bootmisc devfs hostname localmount mdev modules sysctl",
	} {
		m := &fake{fails: fails}
		r := New(root(t)).Run(m)
		delete(r.Left, "networking")
		delete(r.Left, "syslog")
		left := slices.Sorted(maps.Keys(r.Left))
		if got := strings.Join(left, " "); got != want {
			t.Errorf("%s fails: left %v, want %s", fails, r.Left, want)
		}
		for _, name := range left {
			if name != fails && slices.Contains(m.did, "link "+startedDir+"/"+name+" /etc/init.d/"+name) {
				t.Errorf("%s fails: %s is marked as started", fails, name)
			}
		}
	}
}

func TestCgroups(t *testing.T) {
	in := input{root(t, map[string]string{"sys/fs/cgroup/x": ""})}
	steps, err := cgroups(in, nil)
	if err != nil || len(steps) != 2 {
		t.Fatalf("steps: %v, %v", steps, err)
	}
	m := &fake{fails: "nsdelegate"}
	for _, s := range steps {
		if err := s.do(m); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := strings.Join(m.did, "; "), "mount none /sys/fs/cgroup nsdelegate; mount none /sys/fs/cgroup ; "+
		"read /sys/fs/cgroup/cgroup.controllers; write /sys/fs/cgroup/cgroup.subtree_control +cpu; "+
		"write /sys/fs/cgroup/cgroup.subtree_control +memory"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	old := root(t, map[string]string{"sys/fs/cgroup/x": "", "proc/filesystems": "nodev\tcgroup\n"})
	if steps, _ := cgroups(input{old}, nil); len(steps) > 0 {
		t.Errorf("a kernel without cgroup2 is told to %v", steps)
	}
	if _, err := cgroups(input{root(t, map[string]string{"sbin/restorecon": ""})}, nil); err == nil {
		t.Error("labels of SELinux were forgotten")
	}
}
