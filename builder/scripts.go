package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/builder/script"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// The scripts that run when a package is installed: before its files are there,
// behind them, and once all packages are there. The others run when a package is
// upgraded or removed, which an image never does.
const (
	preInstall    = ".pre-install"
	postInstall   = ".post-install"
	triggerScript = ".trigger"
)

// done holds scripts whose effect the builder has without them, by package
// and script, each with what has it (docs/platform.md 5.7). That they are refused
// is no loss, unless they make accounts.
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

// elsewhere are commands of scripts whose work the builder does itself.
var elsewhere = []string{"depmod", "mkinitfs", script.InstallLinks}

// bundleFile is what ca-certificates' trigger makes; ca-certificates-bundle
// brings it ready-made.
const bundleFile = "etc/ssl/certs/ca-certificates.crt"

// links are symbolic links that post-install scripts make, by package, for packages
// that come without the script.
var links = map[string]map[string]string{
	"k3s": {"usr/bin/kubectl": "k3s", "usr/bin/crictl": "k3s", "usr/bin/ctr": "k3s"},
	// The applets bbsuid serves; the list is from memory (UNVERIFIED).
	"busybox-suid": {"bin/su": "/bin/bbsuid", "bin/mount": "/bin/bbsuid", "bin/umount": "/bin/bbsuid",
		"usr/bin/crontab": "/bin/bbsuid", "usr/bin/passwd": "/bin/bbsuid"},
}

// scripts does what packages' install scripts do, without running any.
type scripts struct {
	tree  *layers.Tree
	ids   *script.Accounts
	epoch time.Time
	left  []Warning // for each script that is not done, or failed
}

func newScripts(t *layers.Tree, ids map[string]int, epoch time.Time) *scripts {
	return &scripts{tree: t, ids: script.NewAccounts(ids, epoch), epoch: epoch}
}

// do does one script of a package, if it has it.
func (s *scripts) do(ctx context.Context, p *apk.Installed, kind string, args ...string) error {
	text, there := p.Scripts[kind]
	if !there {
		return nil
	}
	// What a script makes is no file of its package's, for apk.
	o := script.Options{Name: p.String() + kind, Args: args, Epoch: s.epoch, Source: p.String() + kind, Elsewhere: map[string]bool{}}
	for _, name := range elsewhere {
		o.Elsewhere[name] = true
	}
	bundled := s.tree.Lookup(bundleFile) != nil
	o.Elsewhere["update-ca-certificates"] = bundled
	res, err := script.Run(ctx, s.tree, s.ids, text, o)
	if err != nil {
		return fmt.Errorf("package %s: its %s script: %w", p, kind[1:], err)
	}
	_, known := done[p.Name+kind]
	known = known || p.Name == "ca-certificates" && bundled
	// No one else makes the accounts of a script that is refused.
	if known && !bytes.Contains(text, []byte("adduser")) && !bytes.Contains(text, []byte("addgroup")) {
		return nil
	}
	switch {
	case res.Refusal != nil:
		s.left = append(s.left, warning("install script is not run",
			"package", p.String(), "script", kind[1:], "reason", res.Refusal.String(), "hint", "do the same in a layer"))
	case res.Status != 0:
		s.left = append(s.left, warning("install script failed", "package", p.String(), "script", kind[1:], "status", res.Status,
			"output", lastLine(res.Output), "hint", "look whether the image lacks a package that the script needs"))
	}
	return nil
}

// lastLine is what a script said at last.
func lastLine(output string) string {
	output = strings.TrimRight(output, "\n")
	return output[strings.LastIndexByte(output, '\n')+1:]
}

// own gives the files of a package that are owned by name the numbers of the accounts
// that are there by now: scripts behind them may give them another owner.
func (s *scripts) own(files layers.Part) error {
	if !slices.ContainsFunc(files, func(e *layers.Entry) bool { return e.Uname != "" || e.Gname != "" }) {
		return nil
	}
	a, err := readAccounts(s.tree)
	if err != nil {
		return err
	}
	for _, e := range files {
		if err := a.ownOne(e, false); err != nil {
			return err
		}
	}
	return nil
}

// finish does what comes once all packages are there: triggers, in the order of the
// list, and what the builder does of scripts itself.
func (s *scripts) finish(ctx context.Context, list []*apk.Installed) error {
	for _, p := range list {
		for _, name := range slices.Sorted(maps.Keys(links[p.Name])) {
			at, err := s.tree.Resolve(name, false)
			if err != nil {
				return err
			}
			if s.tree.At(at) != nil {
				continue
			}
			h := tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: links[p.Name][name], Mode: 0o777, ModTime: s.epoch}
			if err := s.tree.Add(h, builderSource, nil); err != nil {
				return err
			}
		}
	}
	for _, p := range list {
		if _, there := p.Scripts[triggerScript]; !there {
			continue
		}
		dirs, err := triggering(s.tree, p.Triggers)
		if err != nil {
			return fmt.Errorf("package %s: %w", p, err)
		}
		if len(dirs) == 0 {
			continue
		}
		if err := s.do(ctx, p, triggerScript, dirs...); err != nil {
			return err
		}
	}
	a, err := readAccounts(s.tree)
	if err != nil {
		return err
	}
	if err := a.own(s.tree, false); err != nil {
		return err
	}
	if e := s.tree.Lookup("etc/shadow"); e != nil {
		e.Change(func(h *tar.Header) { h.Gid, h.Mode = a.gid["shadow"], 0o640 })
	}
	return busyboxLinks(s.tree, s.epoch)
}

// maxTriggers bounds the patterns of a package's trigger.
const maxTriggers = 64

// triggering returns the directories that a trigger is for, as apk does in a root
// that is new: all that one of its patterns stands for (apk-tools, src/database.c).
func triggering(t *layers.Tree, patterns []string) ([]string, error) {
	if len(patterns) > maxTriggers {
		return nil, hint.With(fmt.Errorf("the trigger has %d patterns, more than %d", len(patterns), maxTriggers), "leave the package out")
	}
	var dirs []string
	aliases := topLinks(t)
	for _, e := range t.Entries() {
		if e.Typeflag != tar.TypeDir {
			continue
		}
		names := []string{"/" + e.Name}
		for _, a := range aliases {
			if rest, below := strings.CutPrefix(e.Name, a.to+"/"); below {
				names = append(names, "/"+a.name+"/"+rest)
			}
		}
		for _, name := range names {
			if slices.ContainsFunc(patterns, func(p string) bool {
				is, err := path.Match(strings.TrimPrefix(p, "+"), name)
				return err == nil && is
			}) {
				dirs = append(dirs, name)
			}
		}
	}
	return dirs, nil
}

// alias is another name of a directory.
type alias struct{ name, to string }

// topLinks returns the links at the top of the root that lead to directories, as /lib
// does to usr/lib where /usr is merged: packages name what is in them by either.
func topLinks(t *layers.Tree) []alias {
	var list []alias
	for _, name := range t.Children("") {
		if e := t.At(name); e == nil || e.Typeflag != tar.TypeSymlink {
			continue
		}
		if e := t.Lookup(name); e != nil && e.Typeflag == tar.TypeDir {
			list = append(list, alias{name, e.Name})
		}
	}
	return list
}
