package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"path"
	"sort"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/layers/kmod"
)

// baseDirectories adds the empty directories of a root.
func baseDirectories(b *build) error {
	for _, d := range strings.Fields(`boot dev home lib media mnt opt proc run srv sys usr/bin usr/lib usr/sbin usr/share usr/local/bin
		usr/local/lib usr/local/sbin usr/local/share bin sbin etc/apk etc/conf.d etc/init.d etc/modules-load.d etc/network/if-up.d
		etc/network/if-down.d etc/network/if-pre-up.d etc/network/if-post-down.d etc/profile.d etc/sysctl.d etc/periodic etc/crontabs
		lib/firmware lib/modules usr/lib/modules-load.d usr/lib/sysctl.d var/cache var/lib/misc var/local var/log var/mail var/opt var/spool`) {
		b.addDir(d, 0o755)
	}
	b.addDir("root", 0o700)
	b.addDir("tmp", 0o1777)
	b.addDir("var/tmp", 0o1777)
	b.addDir("var/empty", 0o555)
	shadow := b.files["etc/shadow"]
	shadow.Mode, shadow.Gid = 0o640, 42
	return nil
}

// runlevels adds OpenRC's directories, which hold no services yet.
func runlevels(b *build) error {
	for _, l := range []string{"sysinit", "boot", "default", "nonetwork", "shutdown"} {
		b.addDir("etc/runlevels/"+l, 0o755)
	}
	b.addDir("etc/local.d", 0o755)
	// Debian's build of OpenRC complains when these are missing.
	b.addFile("etc/insserv.conf", 0o644, nil)
	b.addDir("etc/insserv.conf.d", 0o755)
	// Debian's static busybox runs its own tools without executing them:
	// OpenRC's test for a /proc with leftovers, which compares two programs'
	// environments, then fails, and busybox' start-stop-daemon hides OpenRC's.
	for _, change := range []struct{ file, from, to string }{
		{"usr/lib/rc/sh/init.sh", "if $got_md5sum && [", "if false && ["},
		{"usr/lib/rc/sh/start-stop-daemon.sh", "\teval start-stop-daemon", "\teval /usr/lib/rc/sbin/start-stop-daemon"},
		{"usr/lib/rc/sh/start-stop-daemon.sh", "\tstart-stop-daemon", "\t/usr/lib/rc/sbin/start-stop-daemon"},
	} {
		f := b.files[change.file]
		if f == nil || !bytes.Contains(f.content, []byte(change.from)) {
			return fmt.Errorf("%s of Debian's openrc has changed: it has no %q", change.file, change.from)
		}
		f.content = bytes.ReplaceAll(f.content, []byte(change.from), []byte(change.to))
	}
	b.addFile("etc/conf.d/dmesg", 0o644, []byte("dmesg_level=4\n"))
	return nil
}

// busyboxPaths writes etc/busybox-paths.d/busybox, which Alpine's package has
// and Debian's has not: the place of every applet. The names come from the
// table inside the program, an array of strings that begins with [ and [[.
func busyboxPaths(b *build) error {
	program := b.files["bin/busybox"].content
	at := bytes.Index(program, []byte("[\x00[[\x00a"))
	if at < 0 {
		return errors.New("Debian's busybox has no table of applets where one is looked for")
	}
	inBin := fieldSet(`ash base64 cat chgrp chmod chown cp cpio date dd df dmesg dnsdomainname dumpkmap echo ed egrep false fatattr
		fgrep getopt grep gunzip gzip hostname ionice ipcalc kill link linux32 linux64 ln login ls lzop mkdir mknod mktemp more mount
		mountpoint mv netstat nice pidof ping ping6 printenv ps pwd reformime rev rm rmdir run-parts sed setpriv setserial sh sleep stat
		stty su sync tar touch true umount uname usleep watch zcat`)
	inSbin := fieldSet(`acpid adjtimex arp blkid blockdev depmod fdisk findfs freeramdisk fsck fsfreeze fstrim getty halt hdparm hwclock
		ifconfig ifdown ifenslave ifup init insmod ip ipaddr iplink ipneigh iproute iprule iptunnel klogd loadkmap logread losetup lsmod
		mdev mkdosfs mkfs.vfat mkswap modinfo modprobe nameif pivot_root poweroff raidautorun reboot rmmod route runlevel setconsole
		slattach swapoff swapon switch_root sysctl syslogd tunctl udhcpc vconfig watchdog zcip`)
	inUsrSbin := fieldSet(`arping brctl chroot crond httpd i2cdetect i2cdump i2cget i2cset nbd-client nologin ntpd partprobe rdate
		rdev readahead sendmail setfont telnetd tftpd udhcpd loadfont`)
	skip := fieldSet("busybox dpkg dpkg-deb rpm rpm2cpio start-stop-daemon svc svok linuxrc")
	var list []string
	for rest := program[at:]; ; {
		end := bytes.IndexByte(rest, 0)
		if end <= 0 {
			break
		}
		name := string(rest[:end])
		rest = rest[end+1:]
		switch {
		case skip[name]:
		case inBin[name]:
			list = append(list, "bin/"+name)
		case inSbin[name]:
			list = append(list, "sbin/"+name)
		case inUsrSbin[name]:
			list = append(list, "usr/sbin/"+name)
		default:
			list = append(list, "usr/bin/"+name)
		}
	}
	if len(list) < 100 {
		return fmt.Errorf("Debian's busybox names %d applets, too few to be all", len(list))
	}
	sort.Strings(list)
	b.addFile("etc/busybox-paths.d/busybox", 0o644, []byte(strings.Join(list, "\n")+"\n"))
	return nil
}

func fieldSet(s string) map[string]bool {
	set := map[string]bool{}
	for _, f := range strings.Fields(s) {
		set[f] = true
	}
	return set
}

// bootcodeKnowsTryboot refuses first stages that would ignore a trial boot:
// Debian's of 2022 is one (docs/platform.md 2.1).
func bootcodeKnowsTryboot(b *build) error {
	if !bytes.Contains(b.files["boot/bootcode.bin"].content, []byte("tryboot_a_b")) {
		return fmt.Errorf("bootcode.bin of raspi-firmware %s does not know tryboot_a_b; a newer one is needed", b.version)
	}
	return nil
}

// upstreamNames maps device trees of the mainline kernel to the names the
// firmware looks for first (docs/platform.md 1.2).
var upstreamNames = map[string]string{
	"bcm2837-rpi-3-b.dtb":      "bcm2710-rpi-3-b.dtb",
	"bcm2837-rpi-3-b-plus.dtb": "bcm2710-rpi-3-b-plus.dtb",
	"bcm2837-rpi-zero-2-w.dtb": "bcm2710-rpi-zero-2-w.dtb",
	"bcm2837-rpi-cm3-io3.dtb":  "bcm2710-rpi-cm3.dtb",
	"bcm2711-rpi-4-b.dtb":      "bcm2711-rpi-4-b.dtb",
	"bcm2711-rpi-400.dtb":      "bcm2711-rpi-400.dtb",
	"bcm2711-rpi-cm4-io.dtb":   "bcm2711-rpi-cm4.dtb",
	"bcm2712-rpi-5-b.dtb":      "bcm2712-rpi-5-b.dtb",
}

// kernel gives Debian's kernel package the shape of Alpine's linux-rpi
// (docs/platform.md 5.8) and keeps the modules of kernelModules.
func kernel(b *build) error {
	all := b.files
	b.files = map[string]*file{}
	set := kmod.Set{Modules: map[string]*kmod.Module{}}
	var release string
	for name, f := range all {
		rest, inModules := strings.CutPrefix(name, "usr/lib/modules/")
		switch {
		case strings.HasPrefix(name, "boot/vmlinuz-"):
			release = strings.TrimPrefix(name, "boot/vmlinuz-")
			b.files["boot/vmlinuz-rpi"] = f
		case strings.HasPrefix(name, "boot/config-"):
			b.files["boot/config-rpi"] = f
		case path.Ext(name) == ".dtb":
			if down := upstreamNames[path.Base(name)]; down != "" {
				b.files["boot/"+down] = f
			}
		case inModules && kmod.NameOf(name) != "":
			_, in, _ := strings.Cut(rest, "/")
			raw, err := kmod.Decompress(name, f.content)
			if err != nil {
				return err
			}
			m, err := kmod.Read(in, raw)
			if err != nil {
				return err
			}
			set.Modules[m.Name] = m
		case inModules && path.Base(name) == "modules.builtin":
			set.Builtin = kmod.ParseBuiltin(f.content)
			b.files["lib/modules/"+rest] = f
		case inModules && strings.HasPrefix(path.Base(name), "modules."):
			b.files["lib/modules/"+rest] = f
		}
	}
	if release == "" {
		return errors.New("Debian's kernel package has no boot/vmlinuz-*")
	}
	var keep []string
	for _, name := range strings.Fields(kernelModules) {
		if set.Modules[name] != nil {
			keep = append(keep, name)
		}
	}
	order, err := set.Order(keep...)
	if err != nil {
		return err
	}
	for _, m := range order {
		b.files["lib/modules/"+release+"/"+m.Path] = all["usr/lib/modules/"+release+"/"+m.Path]
	}
	b.addFile("usr/share/kernel/rpi/kernel.release", 0o644, []byte(release+"\n"))
	return nil
}

// iptablesNft makes the nftables variant the one that is called iptables, as
// Debian's alternatives and Alpine's package do.
func iptablesNft(b *build) error {
	for name, f := range b.files {
		if strings.HasPrefix(path.Base(name), "xtables-legacy") || strings.HasPrefix(name, "usr/lib/") && f.Typeflag == tar.TypeReg &&
			!strings.Contains(name, "/xtables/") {
			delete(b.files, name)
		}
	}
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		b.addLink("usr/sbin/"+name, "xtables-nft-multi")
	}
	return nil
}

// certificateBundle joins the certificates into the one file that programs
// read.
func certificateBundle(b *build) error {
	var names []string
	for name := range b.files {
		if strings.HasSuffix(name, ".crt") {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	var all bytes.Buffer
	for _, name := range names {
		all.Write(b.files[name].content)
		delete(b.files, name)
	}
	b.addFile("etc/ssl/certs/ca-certificates.crt", 0o644, all.Bytes())
	return nil
}

// airgapArchive puts all files into one archive where k3s looks for images,
// compressed as its releases' archives are.
func airgapArchive(b *build) error {
	var names []string
	for name := range b.files {
		names = append(names, name)
	}
	sort.Strings(names)
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		return err
	}
	w := tar.NewWriter(z)
	for _, name := range names {
		f := b.files[name]
		h := f.Header
		h.Name, h.Size = name, int64(len(f.content))
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		if _, err := w.Write(f.content); err != nil {
			return err
		}
		delete(b.files, name)
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	b.addFile("usr/share/k3s/airgap-images-arm64.tar.zst", 0o644, out.Bytes())
	return nil
}
