package builder

import (
	"archive/tar"
	"fmt"
	"time"

	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// installScripts are the ones that run when a package is installed, and
// triggerScript what runs once all are there. The others run when a package is
// upgraded or removed, which an image never does.
var installScripts = []string{".pre-install", ".post-install"}

const triggerScript = ".trigger"

// done holds scripts whose effect the builder has without them, by package
// and script, each with what has it (docs/platform.md 5.7). Accounts they make
// are made all the same.
var done = map[string]string{
	"alpine-baselayout.post-install":        "the shadow file's group is set",
	"busybox.post-install":                  "links are made",
	"busybox.trigger":                       "links are made, depmod's files are written",
	"kmod.trigger":                          "depmod's files are written",
	"mkinitfs.trigger":                      "the initramfs is Pikelet's own",
	"raspberrypi-bootloader-common.trigger": "config.txt is Pikelet's own",
	"openrc.post-install":                   "the script moves an older version's files",
	"open-iscsi.post-install":               "the initiator's name is made on the node",
	"dbus.post-install":                     "the machine id is made on the node",
}

// bundleFile is what ca-certificates' trigger makes; ca-certificates-bundle
// brings it ready-made.
const bundleFile = "etc/ssl/certs/ca-certificates.crt"

// links are symbolic links that post-install scripts make, by package.
var links = map[string]map[string]string{
	"k3s": {"usr/bin/kubectl": "k3s", "usr/bin/crictl": "k3s", "usr/bin/ctr": "k3s"},
	// The applets bbsuid serves; the list is from memory (UNVERIFIED).
	"busybox-suid": {"bin/su": "/bin/bbsuid", "bin/mount": "/bin/bbsuid", "bin/umount": "/bin/bbsuid",
		"usr/bin/crontab": "/bin/bbsuid", "usr/bin/passwd": "/bin/bbsuid"},
}

// doScripts does what the packages' install scripts would do, in the order of
// the list, without running any. It returns a warning for each script that does
// more than it can.
func doScripts(t *layers.Tree, list []*apk.Installed, ids map[string]int, epoch time.Time) ([]Warning, error) {
	a, err := readAccounts(t, ids, epoch)
	if err != nil {
		return nil, err
	}
	var left []Warning
	do := func(p *apk.Installed, kind string) error {
		script, there := p.Scripts[kind]
		if !there {
			return nil
		}
		doubt, err := a.follow(string(script))
		if err != nil {
			return fmt.Errorf("package %s: its %s script: %w", p, kind[1:], err)
		}
		_, known := done[p.Name+kind]
		known = known || p.Name == "ca-certificates" && t.Lookup(bundleFile) != nil || links[p.Name] != nil
		if doubt.text != "" && (!known || doubt.account) {
			left = append(left, warning("install script is not run",
				"package", p.String(), "script", kind[1:], "reason", doubt.text, "hint", "do the same in a layer"))
		}
		return nil
	}
	for _, p := range list {
		for name, target := range links[p.Name] {
			h := tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: epoch}
			if err := t.Add(h, builderSource, nil); err != nil {
				return nil, err
			}
		}
		for _, kind := range installScripts {
			if err := do(p, kind); err != nil {
				return nil, err
			}
		}
	}
	for _, p := range list {
		if err := do(p, triggerScript); err != nil {
			return nil, err
		}
	}
	if err := a.write(t, epoch); err != nil {
		return nil, err
	}
	if err := a.own(t, false); err != nil {
		return nil, err
	}
	if e := t.Lookup("etc/shadow"); e != nil {
		e.Change(func(h *tar.Header) { h.Gid, h.Mode = a.gid["shadow"], 0o640 })
	}
	return left, busyboxLinks(t, epoch)
}
