// Package etc says what a node's config makes of its /etc: a pure function
// from config, identity and image to files, so that all of it can be read and
// tested without a node.
package etc

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// File is one file to write, or a link.
type File struct {
	Path    string // absolute
	Content string
	Mode    fs.FileMode // 0 means 0644
	UID     int
	Link    string // target; makes it a symbolic link
}

// Input is what the files are made of.
type Input struct {
	Config   *nodeconfig.Config
	Identity node.Identity
	Root     fs.FS // the image's files
	Feeder   int   // the process that feeds the watchdog; 0 for none
	Consoles []string
	OpenRoot bool // the image lets anybody in at the console
}

// firstUID is the number of the first user of a config. Packages' accounts
// have lower ones.
const firstUID = 1000

// mark heads the files that are written on each boot.
const mark = "# Written on each boot by pikeletd, from the node config.\n"

// Files returns what a node's config makes of its root, sorted by path, and
// what could not be done.
func Files(in Input) (files []File, problems []string) {
	b := &builder{Input: in, uids: map[string]int{}}
	b.names()
	b.accounts()
	b.ssh()
	b.network()
	b.time()
	b.kernel()
	b.k3s()
	b.backup()
	b.iscsi()
	b.consoles()
	for _, f := range in.Config.Files {
		b.file(f)
	}
	sort.SliceStable(b.files, func(i, j int) bool { return b.files[i].Path < b.files[j].Path })
	return b.files, b.problems
}

type builder struct {
	Input
	files    []File
	problems []string
	uids     map[string]int // of the accounts that were added
}

func (b *builder) add(name, content string, mode fs.FileMode) {
	b.files = append(b.files, File{Path: name, Content: content, Mode: mode})
}

func (b *builder) problem(format string, args ...any) {
	b.problems = append(b.problems, fmt.Sprintf(format, args...))
}

// has reports whether the image has a file.
func (b *builder) has(name string) bool {
	_, err := fs.Lstat(b.Root, strings.TrimPrefix(name, "/"))
	return err == nil
}

// read returns a file of the image, or nothing.
func (b *builder) read(name string) string {
	text, err := fs.ReadFile(b.Root, strings.TrimPrefix(name, "/"))
	if err != nil {
		return ""
	}
	return string(text)
}

// enable starts a service of the image in a runlevel.
func (b *builder) enable(level, service string) {
	b.files = append(b.files, File{Path: "/etc/runlevels/" + level + "/" + service, Link: "/etc/init.d/" + service})
}

func (b *builder) names() {
	name := b.Identity.Hostname
	b.add("/etc/hostname", name+"\n", 0)
	b.add("/etc/hosts", "127.0.0.1\tlocalhost localhost.localdomain\n::1\tlocalhost localhost.localdomain\n127.0.1.1\t"+name+"\n", 0)
	b.add("/etc/machine-id", b.Identity.MachineID+"\n", 0o444)
	if b.Feeder != 0 {
		// A shutdown may take longer than the hardware waits, flushing a slow disk.
		b.add("/etc/conf.d/killprocs", mark+fmt.Sprintf("killall5_opts=\"-o %d\"\n", b.Feeder), 0)
	}
}

// accounts adds the config's users to the image's. None has a password.
func (b *builder) accounts() {
	passwd, group, shadow := b.read("/etc/passwd"), b.read("/etc/group"), b.read("/etc/shadow")
	var admins strings.Builder
	uid := firstUID
	for _, u := range b.Config.Users {
		home, id := "/root", 0
		if u.Name != "root" {
			if strings.HasPrefix(passwd, u.Name+":") || strings.Contains(passwd, "\n"+u.Name+":") {
				b.problem("users: %s is an account of the image already, and was left alone", u.Name)
				continue
			}
			home, id = "/home/"+u.Name, uid
			uid++
			b.uids[u.Name] = id
			passwd += fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", u.Name, id, id, home)
			group += fmt.Sprintf("%s:x:%d:\n", u.Name, id)
			// * is no password; ! would make sshd refuse keys too.
			shadow += u.Name + ":*:0:::::\n"
			b.files = append(b.files, File{Path: home, Mode: fs.ModeDir | 0o700, UID: id})
		}
		b.files = append(b.files, File{Path: home + "/.ssh", Mode: fs.ModeDir | 0o700, UID: id})
		keys := ""
		if id == 0 {
			keys = b.read("/root/.ssh/authorized_keys") // the image's own stay good
		}
		if keys != "" && !strings.HasSuffix(keys, "\n") {
			keys += "\n"
		}
		b.files = append(b.files, File{Path: home + "/.ssh/authorized_keys", Content: keys + strings.Join(u.Keys, "\n") + "\n",
			Mode: 0o600, UID: id})
		if u.Admin && id != 0 {
			// doas compares what was typed; a name without a path it looks for in
			// the system's directories only.
			fmt.Fprintf(&admins, "permit nopass %[1]s as root cmd %[2]s\npermit nopass %[1]s as root cmd %[3]s\n", u.Name, node.AgentFile,
				path.Base(node.AgentFile))
		}
	}
	if uid != firstUID {
		b.add("/etc/passwd", passwd, 0)
		b.add("/etc/group", group, 0)
		b.add("/etc/shadow", shadow, 0o640)
	}
	if admins.Len() > 0 {
		if !b.has("/usr/bin/doas") && !b.has("/bin/doas") {
			b.problem("users: the image has no doas, so admins can log in but not run pikeletd; add the package doas")
		}
		b.add("/etc/doas.conf", mark+admins.String(), 0o400)
	}
}

// ssh gives each server that the image may have the one host key.
func (b *builder) ssh() {
	if b.has("/usr/sbin/dropbear") {
		b.files = append(b.files, File{Path: "/etc/dropbear", Mode: fs.ModeDir | 0o755})
		b.add("/etc/dropbear/dropbear_ed25519_host_key", string(b.Identity.DropbearKey()), 0o600)
	}
	if b.has("/usr/sbin/sshd") {
		b.add("/etc/ssh/ssh_host_ed25519_key", string(b.Identity.OpenSSHKey()), 0o600)
		b.add("/etc/ssh/ssh_host_ed25519_key.pub", b.Identity.PublicKey()+" "+b.Identity.Hostname+"\n", 0)
		b.add("/etc/ssh/sshd_config.d/pikelet.conf", mark+"HostKey /etc/ssh/ssh_host_ed25519_key\n"+
			"PasswordAuthentication no\nKbdInteractiveAuthentication no\n", 0)
		b.add("/etc/conf.d/sshd", mark+"sshd_disable_keygen=yes\n", 0)
	}
}

// time writes the time zone and where the time comes from.
func (b *builder) time() {
	t := b.Config.Time
	if t.Zone != "" {
		zone := "/usr/share/zoneinfo/" + t.Zone
		if b.has(zone) {
			b.files = append(b.files, File{Path: "/etc/localtime", Link: zone})
			b.add("/etc/timezone", t.Zone+"\n", 0)
		} else {
			b.problem("time.zone: the image has no zone %s; add the package tzdata, or correct the name", t.Zone)
		}
	}
	if !b.has("/usr/sbin/chronyd") {
		if len(t.Servers) > 0 {
			b.problem("time.servers: the image has no chrony; add the overlay chrony")
		}
		return
	}
	var s strings.Builder
	s.WriteString(mark)
	for _, line := range strings.Split(b.read("/etc/chrony/chrony.conf"), "\n") {
		if strings.HasPrefix(line, "user ") { // the account is the package's to choose
			s.WriteString(line + "\n")
		}
	}
	for _, server := range t.Servers {
		fmt.Fprintf(&s, "server %s iburst\n", server)
	}
	if len(t.Servers) == 0 {
		s.WriteString("pool pool.ntp.org iburst\n")
	}
	// Whenever the clock is far off it jumps: a node without a battery may
	// find its network a day after it started.
	// rtcsync is how chronyd tells the kernel that the time is right, which k3s
	// waits for; without a clock to set it does nothing else.
	s.WriteString("makestep 1.0 -1\ndriftfile /var/lib/chrony/chrony.drift\ncmdport 0\nrtcsync\n")
	b.add("/etc/chrony/chrony.conf", s.String(), 0)
}

// kernel writes settings and modules.
func (b *builder) kernel() {
	if len(b.Config.Sysctls) > 0 {
		s := mark
		for _, k := range slices.Sorted(maps.Keys(b.Config.Sysctls)) {
			s += k + " = " + b.Config.Sysctls[k] + "\n"
		}
		b.add("/etc/sysctl.d/90-node.conf", s, 0)
	}
	if len(b.Config.Modules) > 0 {
		b.add("/etc/modules-load.d/node.conf", mark+strings.Join(b.Config.Modules, "\n")+"\n", 0)
	}
}

// k3s writes what k3s reads: its own config, the registries', and the
// password by which a server knows the node again (docs/platform.md 7.1, 7.4).
func (b *builder) k3s() {
	k := b.Config.K3s
	r := b.Config.Registries
	if len(r.Mirrors)+len(r.Configs) > 0 {
		b.yaml("/etc/rancher/k3s/registries.yaml", r)
	}
	if k.Role == "" {
		return
	}
	if !b.has("/etc/init.d/pikelet-k3s") {
		b.problem("k3s.role: the image has no k3s; add the overlay k3s")
		return
	}
	m := map[string]any{"node-name": b.Identity.Hostname}
	set := func(key, value string) {
		if value != "" {
			m[key] = value
		}
	}
	set("server", k.Server)
	set("token", k.Token)
	set("agent-token", k.AgentToken)
	var labels []string
	for _, key := range slices.Sorted(maps.Keys(k.Labels)) {
		labels = append(labels, key+"="+k.Labels[key])
	}
	if len(labels) > 0 {
		m["node-label"] = labels
	}
	if len(k.Taints) > 0 {
		m["node-taint"] = k.Taints
	}
	maps.Copy(m, k.Options)
	b.yaml("/etc/rancher/k3s/config.yaml", m)
	b.files = append(b.files, File{Path: "/etc/rancher/node", Mode: fs.ModeDir | 0o700})
	b.add("/etc/rancher/node/password", b.Identity.NodePassword+"\n", 0o600)
	b.enable("default", "pikelet-k3s")
	if k.Role == "server" && b.has("/etc/init.d/pikelet-rollout") {
		b.enable("default", "pikelet-rollout")
	}
}

// backup enables backups of a server. The service reads the config itself.
func (b *builder) backup() {
	if b.Config.K3s.Role != "server" || b.Config.Backup.To == "" {
		return
	}
	if !b.has("/etc/init.d/pikelet-backup") {
		b.problem("backup: the image makes no backups, and restores none; add the overlay backup")
		return
	}
	b.enable("default", "pikelet-backup")
}

// yaml writes a file that may hold secrets.
func (b *builder) yaml(name string, v any) {
	text, err := yaml.Marshal(v)
	if err != nil {
		b.problem("writing %s: %v", name, err)
		return
	}
	b.add(name, mark+string(text), 0o600)
}

// safeLogout keeps iscsiadm from ending a session whose disks are in use: a CSI
// driver, or the kubelet, logs out of a target when the last volume of a pod on it
// goes, and the node's own may be on the same
// (https://github.com/open-iscsi/open-iscsi/blob/master/etc/iscsid.conf).
const safeLogout = "iscsid.safe_logout = Yes\n"

// iscsi names the initiator. Targets are logged in to by pikeletd, by the
// records it makes itself; the service's own logins and logouts stay out of
// it.
func (b *builder) iscsi() {
	if !b.has("/etc/iscsi") && !b.has("/sbin/iscsid") && !b.has("/usr/sbin/iscsid") {
		if len(b.Config.ISCSI.Targets)+len(b.Config.ISCSI.Discovery) > 0 {
			b.problem("iscsi: the image has no initiator; add the overlay iscsi")
		}
		return
	}
	b.add("/etc/iscsi/initiatorname.iscsi", "InitiatorName="+b.Initiator()+"\n", 0o600)
	b.add("/etc/iscsi/iscsid.conf", b.read("/etc/iscsi/iscsid.conf")+"\n# By Pikelet:\n"+safeLogout, 0o600)
	b.add("/etc/conf.d/iscsid", mark+"AUTOSTARTTARGETS=\"no\"\n", 0)
}

// Initiator returns the node's IQN.
func (in Input) Initiator() string {
	if name := in.Config.ISCSI.Initiator; name != "" {
		return name
	}
	return in.Identity.IQN
}

// consoles adds a getty for each console the kernel has: which serial port
// that is differs from board to board. The getty asks for a login, and no
// account has a password unless a layer brought one, or opens a root shell
// where spec or node config opted into it.
func (b *builder) consoles() {
	getty := "/sbin/getty -L 0 %[1]s vt100"
	if b.OpenRoot || b.Config.Console == "root" {
		getty = "/sbin/getty -L -n -l " + rootConsole + " 0 %[1]s vt100"
		b.add(rootConsole, "#!/bin/sh\n# Spec or node config says console: root.\nexec /bin/login -f root\n", 0o755)
	}
	tab := b.read("/etc/inittab")
	for _, tty := range b.Consoles {
		tab += fmt.Sprintf("%[1]s::respawn:"+getty+"\n", path.Base(tty))
	}
	b.add("/etc/inittab", tab, 0)
}

// rootConsole is the program that opens a console to anybody. It is there
// only on nodes that were told to.
const rootConsole = "/run/pikelet/root-console"

// file is one of the config's own.
func (b *builder) file(f nodeconfig.File) {
	mode := fs.FileMode(0o644)
	if f.Secret {
		mode = 0o600
	}
	if m, err := strconv.ParseUint(f.Mode, 8, 32); f.Mode != "" && err == nil {
		mode = fs.FileMode(m)
	}
	uid, added := b.uids[f.Owner]
	if !added && f.Owner != "" && f.Owner != "root" {
		b.problem("files: %s was to belong to %s, whose account was left alone; it belongs to root", f.Path, f.Owner)
	}
	b.files = append(b.files, File{Path: f.Path, Content: f.Content, Mode: mode, UID: uid})
}
