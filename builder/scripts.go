package builder

import (
	"archive/tar"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// installScripts are the ones that run when a package is installed; the
// others run when one is upgraded or removed, which an image never does.
var installScripts = []string{".pre-install", ".post-install", ".trigger"}

// done holds scripts whose effect the builder has without them, by package
// and script, each with what has it (FACTS 5.7). Accounts they make are made
// all the same.
var done = map[string]string{
	"alpine-baselayout.post-install":        "the shadow file's group is set",
	"busybox.post-install":                  "links are made",
	"busybox.trigger":                       "links are made, depmod's files are written",
	"kmod.trigger":                          "depmod's files are written",
	"mkinitfs.trigger":                      "the initramfs is Pikelet's own",
	"raspberrypi-bootloader-common.trigger": "config.txt is Pikelet's own",
	"openrc.post-install":                   "it moves an older version's files",
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

// doScripts does what the packages' install scripts would do, without running
// any. What it cannot do it returns, one line for each script.
func doScripts(t *layers.Tree, list []*apk.Installed, ids map[string]int, epoch time.Time) ([]string, error) {
	a := readAccounts(t, ids, epoch)
	var left []string
	for _, p := range list {
		for name, target := range links[p.Name] {
			h := tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: epoch}
			if err := t.Add(h, builderSource, nil); err != nil {
				return nil, err
			}
		}
		for _, kind := range installScripts {
			script, there := p.Scripts[kind]
			if !there {
				continue
			}
			odd, err := a.follow(string(script))
			if err != nil {
				return nil, fmt.Errorf("package %s: its %s script: %w", p, kind[1:], err)
			}
			_, known := done[p.Name+kind]
			known = known || p.Name == "ca-certificates" && t.Lookup(bundleFile) != nil
			if odd != "" && !known && links[p.Name] == nil {
				left = append(left, fmt.Sprintf("package %s: Pikelet does not run its %s script, and does not know %q; do what it does in a layer", p, kind[1:], odd))
			}
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

// follow does what a script says as far as it is known: most make accounts
// and nothing else. It returns the first line it does not know.
func (a *accounts) follow(script string) (odd string, err error) {
	for _, line := range strings.Split(strings.ReplaceAll(script, "\\\n", " "), "\n") {
		if i := strings.Index(line, " #"); i >= 0 {
			line = line[:i]
		}
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		bare := line
		for _, tail := range []string{"|| true", "|| :", "2>/dev/null", ">/dev/null", "1>/dev/null", "&>/dev/null", "2>&1"} {
			bare = strings.TrimSpace(strings.ReplaceAll(bare, tail, ""))
		}
		known, err := a.command(bare)
		if err != nil {
			return "", err
		}
		if !known && odd == "" {
			odd = line
		}
	}
	return odd, nil
}

// command does one line of a script, or says that it does not know it.
func (a *accounts) command(line string) (known bool, err error) {
	words, plain := split(line)
	if !plain || len(words) == 0 {
		return false, nil
	}
	switch words[0] {
	case "exit":
		return len(words) == 2 && words[1] == "0", nil
	case "set", "true", ":", "echo":
		return true, nil
	case "addgroup":
		return a.groupCommand(words[1:])
	case "adduser":
		return a.userCommand(words[1:])
	}
	return false, nil
}

// split cuts a line into words, quotes observed; plain says that there is
// nothing in it a shell would act on.
func split(line string) (words []string, plain bool) {
	var word strings.Builder
	quote, begun := rune(0), false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == '\'' || quote == '"' && r != '$' && r != '`':
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, begun = r, true
		case strings.ContainsRune("$`|&;<>(){}*?", r):
			return nil, false
		case r == ' ' || r == '\t':
			if begun {
				words = append(words, word.String())
				word.Reset()
				begun = false
			}
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if begun {
		words = append(words, word.String())
	}
	return words, quote == 0
}

// options reads busybox' short options; those in with take a value.
func options(args []string, with string) (values map[byte]string, rest []string, err error) {
	values = map[byte]string{}
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if len(arg) < 2 || arg[0] != '-' {
			rest = append(rest, arg)
			continue
		}
		for j := 1; j < len(arg); j++ {
			if strings.IndexByte(with, arg[j]) < 0 {
				values[arg[j]] = "yes"
				continue
			}
			value := arg[j+1:]
			if value == "" {
				if i++; i >= len(args) {
					return nil, nil, errors.New("an option lacks its value")
				}
				value = args[i]
			}
			values[arg[j]] = value
			break
		}
	}
	return values, rest, nil
}

func (a *accounts) groupCommand(args []string) (bool, error) {
	o, rest, err := options(args, "g")
	switch {
	case err != nil || len(rest) < 1 || len(rest) > 2:
		return false, nil
	case len(rest) == 2:
		return true, a.join(rest[0], rest[1])
	}
	return true, a.addGroup(rest[0], o['g'])
}

// nogroup is the group of system users that name none.
const nogroup = "nogroup"

func (a *accounts) userCommand(args []string) (bool, error) {
	o, rest, err := options(args, "hgsGuk")
	if err != nil || len(rest) != 1 {
		return false, nil
	}
	u := user{name: rest[0], uid: o['u'], group: o['G'], gecos: o['g'], home: o['h'], shell: o['s']}
	if u.group == "" {
		u.group = nogroup
		if o['S'] == "" {
			u.group = u.name
			if err := a.addGroup(u.name, u.uid); err != nil {
				return false, err
			}
		}
	}
	if u.gecos == "" {
		u.gecos = u.name
	}
	if u.home == "" {
		u.home = "/home/" + u.name
	}
	if u.shell == "" {
		u.shell = "/sbin/nologin"
	}
	return true, a.addUser(u)
}
