package script

import "strings"

// applets are the commands of Alpine's busybox 1.36 (busybox --list). Those that
// applet does not know refuse a script; what is not among them and not in the
// tree is not found, as on a machine.
const applets = `[ [[ acpid add-shell addgroup adduser adjtimex arch arp arping ash awk base64 basename bbconfig bc beep blkdiscard
blkid blockdev brctl bunzip2 busybox bzcat bzip2 cal cat chattr chgrp chmod chown chpasswd chroot chvt cksum clear cmp comm cp cpio crond
crontab cryptpw cut date dc dd deallocvt delgroup deluser depmod df diff dirname dmesg dnsdomainname dos2unix du dumpkmap echo egrep
eject env ether-wake expand expr factor fallocate false fatattr fbset fbsplash fdflush fdisk fgrep find findfs flock fold free fsck
fstrim fsync fuser getopt getty grep groups gunzip gzip halt hd head hexdump hostid hostname hwclock id ifconfig ifdown ifenslave ifup
init inotifyd insmod install ionice iostat ip ipaddr ipcalc ipcrm ipcs iplink ipneigh iproute iprule iptunnel kbd_mode kill killall
killall5 klogd last less link linux32 linux64 ln loadfont loadkmap logger login logread losetup ls lsattr lsmod lsof lsusb lzcat lzma
lzop lzopcat makemime md5sum mdev mesg microcom mkdir mkdosfs mkfifo mkfs.vfat mknod mkpasswd mkswap mktemp modinfo modprobe more mount
mountpoint mpstat mv nameif nanddump nandwrite nbd-client nc netstat nice nl nmeter nohup nologin nproc nsenter nslookup ntpd od openvt
partprobe passwd paste pgrep pidof ping ping6 pipe_progress pivot_root pkill pmap poweroff printenv printf ps pscan pstree pwd pwdx
raidautorun rdate rdev readahead readlink realpath reboot reformime remove-shell renice reset resize rev rfkill rm rmdir rmmod route
run-parts sed sendmail seq setconsole setfont setkeycodes setlogcons setpriv setserial setsid sh sha1sum sha256sum sha3sum sha512sum
showkey shred shuf slattach sleep sort split stat strings stty su sum swapoff swapon switch_root sync sysctl syslogd tac tail tar tee
test time timeout top touch tr traceroute traceroute6 tree true truncate tty ttysize tunctl udhcpc udhcpc6 umount uname unexpand uniq
unix2dos unlink unlzma unlzop unshare unxz unzip uptime usleep uudecode uuencode vconfig vi vlock volname watch watchdog wc wget which
who whoami whois xargs xxd xzcat yes zcat zcip`

// isApplet reports whether busybox has a command of that name.
func isApplet(name string) bool {
	if name == "" {
		return false
	}
	for one := range strings.FieldsSeq(applets) {
		if one == name {
			return true
		}
	}
	return false
}

// machineApplets are commands whose answer is a node's own.
var machineApplets = map[string]bool{"date": true, "hostname": true, "uname": true, "arch": true, "hostid": true, "nproc": true,
	"uptime": true, "free": true, "df": true, "mount": true, "umount": true, "modprobe": true, "insmod": true, "rmmod": true,
	"sysctl": true, "dmesg": true, "ifconfig": true, "ip": true, "ping": true, "wget": true, "nslookup": true, "reboot": true,
	"halt": true, "poweroff": true, "logger": true, "blkid": true, "lsmod": true, "ps": true, "mountpoint": true, "fsck": true}

// applet returns a command that works on the tree, or nil.
func applet(name string) command {
	if machineApplets[name] {
		return func(c *call) int {
			c.refuse(Machine, "what it does or says depends on the machine it runs on")
			return 1
		}
	}
	for _, find := range []func(string) command{textApplet, fileApplet, accountApplet, otherApplet} {
		if f := find(name); f != nil {
			return f
		}
	}
	return nil
}

func textApplet(name string) command {
	switch name {
	case "echo":
		return (*call).echo
	case "printf":
		return (*call).printf
	case "cat":
		return (*call).cat
	case "head":
		return (*call).head
	case "tail":
		return (*call).tail
	case "wc":
		return (*call).wc
	case "sort":
		return (*call).sort
	case "uniq":
		return (*call).uniq
	case "cut":
		return (*call).cut
	case "tr":
		return (*call).tr
	case "tee":
		return (*call).tee
	case "grep", "egrep", "fgrep":
		return (*call).grep
	case "sed":
		return (*call).sed
	case "seq":
		return (*call).seq
	case "md5sum", "sha1sum", "sha256sum", "sha512sum":
		return (*call).checksum
	}
	return nil
}

func fileApplet(name string) command {
	switch name {
	case "ln":
		return (*call).ln
	case "mkdir":
		return (*call).mkdir
	case "rmdir":
		return (*call).rmdir
	case "rm":
		return (*call).rm
	case "unlink":
		return (*call).unlink
	case "touch":
		return (*call).touchFiles
	case "chmod":
		return (*call).chmod
	case "chown", "chgrp":
		return (*call).chown
	case "cp":
		return (*call).cp
	case "mv":
		return (*call).mv
	case "install":
		return (*call).install
	case "readlink":
		return (*call).readlink
	case "realpath":
		return (*call).realpath
	case "mktemp":
		return (*call).mktemp
	case "find":
		return (*call).findFiles
	case "ls":
		return (*call).ls
	case "cmp":
		return (*call).cmp
	}
	return nil
}

func accountApplet(name string) command {
	switch name {
	case "adduser":
		return (*call).adduser
	case "addgroup":
		return (*call).addgroup
	case "passwd":
		return (*call).passwd
	case "getent":
		return (*call).getent
	case "id":
		return (*call).id
	case "whoami":
		return func(c *call) int {
			c.print("root\n")
			return 0
		}
	case "add-shell", "remove-shell":
		return (*call).shells
	case "deluser", "delgroup":
		return (*call).deluser
	}
	return nil
}

func otherApplet(name string) command {
	switch name {
	case "test", "[", "[[":
		return (*call).test
	case "expr":
		return (*call).expr
	case "basename":
		return (*call).basename
	case "dirname":
		return (*call).dirname
	case "pwd":
		return (*call).pwd
	case "env":
		return (*call).env
	case "xargs":
		return (*call).xargs
	case "sh", "ash":
		return (*call).sh
	case "busybox":
		return (*call).busybox
	case "rc-update":
		return (*call).rcUpdate
	case "sync", "true", "sleep", "usleep", "fsync":
		return func(*call) int { return 0 }
	case "false":
		return func(*call) int { return 1 }
	case "pidof", "pgrep", "killall", "pkill": // no process of the image runs
		return func(*call) int { return 1 }
	}
	return nil
}
