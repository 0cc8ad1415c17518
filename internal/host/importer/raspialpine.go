package importer

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// raspiAlpine reads what an image of raspi-alpine/builder is made with: a file of
// variables as docker run --env-file takes it, a script that runs the builder, or the
// directory of a machine's data partition.
func (d *draft) raspiAlpine(name string) error {
	n := d.node()
	if st, err := fs.Stat(d.files.fsys, name); err == nil && st.IsDir() {
		if err := d.dataPartition(n, name); err != nil {
			return err
		}
	} else {
		b, err := d.files.read(name)
		if err != nil {
			return err
		}
		if path.Ext(name) == ".env" || isEnvFile(string(b)) {
			d.envFile(n, name, string(b))
		} else {
			d.buildScript(n, name, string(b))
		}
	}
	if n.Hostname == "" {
		n.Hostname = "alpine"
		d.note(place{name, 0}, "hostname", "none is set; alpine is the builder's own default")
	}
	return nil
}

// isEnvFile reports whether a file holds variables alone, one a line and unquoted.
func isEnvFile(text string) bool {
	for _, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' && !strings.HasPrefix(line, "#!") {
			continue
		}
		name, _, ok := strings.Cut(line, "=")
		if !ok || name == "" || strings.ContainsAny(name, " \t$\"'") {
			return false
		}
	}
	return true
}

func (d *draft) envFile(n *nodeconfig.Node, file, text string) {
	for i, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		name, val, _ := strings.Cut(line, "=")
		d.builderVariable(n, name, holes(val), place{file, i + 1})
	}
}

// builderNotes are variables of the builder (its README, "Config Variables") that a
// node config has no place for.
var builderNotes = map[string]string{
	"DEFAULT_ROOT_PASSWORD":         "nodes have no passwords; --ssh-key FILE.pub lets root in",
	"DEFAULT_DROPBEAR_ENABLED":      "the overlay ssh is the SSH server",
	"DEFAULT_KERNEL_MODULES":        "an image has all modules of its kernel; modules of a node config loads some",
	"ADDITIONAL_KERNEL_MODULES":     "an image has all modules of its kernel; modules of a node config loads some",
	"ADDITIONAL_DIR_KERNEL_MODULES": "an image has all modules of its kernel; modules of a node config loads some",
	"ALPINE_BRANCH":                 "alpine in the image's spec",
	"ALPINE_MIRROR":                 "mirror in the image's spec",
	"ARCH":                          "images are for 64 bits (docs/hardware.md)",
	"CMDLINE":                       "cmdline in the image's spec; root= and the console are its own",
	"CUSTOM_IMAGE_SCRIPT":           "no script runs in a build; packages, overlays and layers of the image's spec take its place",
	"IMG_NAME":                      "pikelet build names its output",
	"INPUT_PATH":                    "layers and overlays of the image's spec",
	"OUTPUT_PATH":                   "pikelet build names its output",
	"CACHE_PATH":                    "--cache of pikelet build",
	"RPI_FIRMWARE_BRANCH":           "the board's packages in the image's spec",
	"RPI_FIRMWARE_GIT":              "the board's packages in the image's spec",
	"DEV":                           "nodes have mdev",
	"LIB_LOG":                       "logs says where system logs are",
	"UBOOT_COUNTER_RESET_ENABLED":   "a release is kept once its checks hold (docs/upgrades.md)",
	"SIMPLE_IMAGE":                  "a card has two slots",
}

// builderVariable reads one variable of the builder.
func (d *draft) builderVariable(n *nodeconfig.Node, name, val string, at place) {
	name, val = strings.TrimSpace(name), strings.TrimSpace(val)
	if len(val) > 1 && (val[0] == '"' || val[0] == '\'') && val[len(val)-1] == val[0] {
		val = val[1 : len(val)-1]
	}
	switch {
	case name == "DEFAULT_HOSTNAME":
		d.hostname(n, val, at)
	case name == "DEFAULT_TIMEZONE":
		if strings.Contains(val, hole) {
			d.note(at, name, "set from somewhere else; write it into time.zone")
			return
		}
		d.try(n, name, at, func(c *nodeconfig.Config) { c.Time.Zone = val })
	case strings.HasPrefix(name, "SIZE_"):
		d.note(at, name, "sizes of a card are its own: slots in the image's spec, and state takes the rest")
	case strings.HasPrefix(name, "K3S_") || strings.HasPrefix(name, "INSTALL_K3S_"):
		if n.K3s.Role == "" {
			n.K3s.Role = "server"
		}
		d.variable(n, name, val, at)
	case builderNotes[name] != "":
		d.note(at, name, builderNotes[name])
	default:
		d.note(at, "variable "+name, "no part of a node config that pikelet knows of")
	}
}

// buildScript reads a script that runs the builder, for the variables it passes on.
func (d *draft) buildScript(n *nodeconfig.Node, file, text string) {
	list, ok := commands(file, text, 0)
	if !ok {
		d.note(place{file, 1}, "the file", "no shell script, and no file of variables")
		return
	}
	set := map[string]assigned{}
	for _, pipe := range list {
		for _, c := range pipe {
			if len(c.words) == 0 {
				for _, v := range c.vars {
					set[v.name] = v
				}
				continue
			}
			program, rest := c.program()
			if (program == "docker" || program == "podman") && len(rest) > 0 && rest[0].text == "run" {
				d.dockerRun(n, file, rest, set)
				continue
			}
			if strings.Contains(program, hole) || len(program) > 40 {
				program = "..."
			}
			d.note(c.at, "command "+program, "no command runs in a build or on a node; packages, overlays and layers of the image's spec "+
				"take its place")
		}
	}
	for _, name := range sortedNames(set) {
		if builderNotes[name] != "" || strings.HasPrefix(name, "DEFAULT_") || strings.HasPrefix(name, "SIZE_") {
			d.builderVariable(n, name, set[name].val, set[name].at)
		}
	}
}

func sortedNames(set map[string]assigned) (names []string) {
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// dockerRun reads the variables that docker run passes to the builder, and takes
// those out of set that it passes on by their names.
func (d *draft) dockerRun(n *nodeconfig.Node, file string, words []word, set map[string]assigned) {
	for i := 0; i < len(words); i++ {
		flag, val, given := strings.Cut(words[i].text, "=")
		if flag != "-e" && flag != "--env" && flag != "--env-file" {
			continue
		}
		at := words[i].at
		if !given {
			if i++; i == len(words) {
				return
			}
			val, at = words[i].text, words[i].at
		}
		if flag == "--env-file" {
			d.envFileOf(n, file, val, at)
			continue
		}
		name, text, isSet := strings.Cut(val, "=")
		if v, known := set[name]; !isSet && known {
			text, at = v.val, v.at
			delete(set, name)
		} else if !isSet {
			text = hole
		}
		d.builderVariable(n, name, text, at)
	}
}

func (d *draft) envFileOf(n *nodeconfig.Node, file, name string, at place) {
	other := path.Join(path.Dir(file), name)
	if strings.Contains(name, hole) || !fs.ValidPath(other) {
		d.note(at, "--env-file", "its file is not beside this one; import it as a file of its own")
		return
	}
	b, err := d.files.read(other)
	if err != nil {
		d.note(at, "--env-file", "its file is not beside this one; import it as a file of its own")
		return
	}
	d.envFile(n, other, string(b))
}

// dataPartition reads the files that a machine keeps on its data partition
// (resources/scripts/data_prepare.sh of the builder).
func (d *draft) dataPartition(n *nodeconfig.Node, dir string) error {
	for _, f := range []struct {
		name string
		read func(file, text string)
	}{
		{"etc/hostname", func(file, text string) { d.hostname(n, strings.TrimSpace(text), place{file, 1}) }},
		{"etc/timezone", func(file, text string) {
			d.try(n, "timezone", place{file, 1}, func(c *nodeconfig.Config) { c.Time.Zone = strings.TrimSpace(text) })
		}},
		{"etc/network/interfaces", func(file, text string) { d.interfaces(n, file, text) }},
		{"etc/resolv.conf", func(file, text string) { d.resolvConf(n, file, text) }},
		{"root/.ssh/authorized_keys", func(file, text string) { d.authorized(n, file, text) }},
		{"etc/dropbear/authorized_keys", func(file, text string) { d.authorized(n, file, text) }},
		{"etc/shadow", func(file, _ string) {
			d.note(place{file, 0}, "passwords", "nodes have no passwords; users log in with keys")
		}},
	} {
		b, err := d.files.read(path.Join(dir, f.name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		f.read(path.Join(dir, f.name), string(b))
	}
	return nil
}

func (d *draft) resolvConf(n *nodeconfig.Node, file, text string) {
	for i, line := range strings.Split(text, "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			d.try(n, "name server", place{file, i + 1}, func(c *nodeconfig.Config) { c.Network.DNS = append(c.Network.DNS, f[1]) })
		}
	}
}

func (d *draft) authorized(n *nodeconfig.Node, file, text string) {
	for i, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			d.user(n, "root", []string{line}, false, place{file, i + 1})
		}
	}
}

// interfaces reads a file of ifupdown.
func (d *draft) interfaces(n *nodeconfig.Node, file, text string) {
	var list []nodeconfig.Interface
	var places []place
	for i, line := range strings.Split(text, "\n") {
		at := place{file, i + 1}
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") {
			continue
		}
		var last *nodeconfig.Interface
		if len(list) > 0 {
			last = &list[len(list)-1]
		}
		switch {
		case f[0] == "auto" || f[0] == "allow-hotplug":
		case f[0] == "iface" && len(f) >= 4:
			if f[1] == "lo" {
				list, places = append(list, nodeconfig.Interface{Name: "lo"}), append(places, at)
				continue
			}
			yes := f[3] == "dhcp"
			list, places = append(list, nodeconfig.Interface{Name: f[1], DHCP: &yes}), append(places, at)
		case last == nil:
			d.note(at, f[0], "outside of an interface")
		case f[0] == "address":
			last.Addresses = append(last.Addresses, f[1])
		case f[0] == "netmask" && len(last.Addresses) > 0 && !strings.Contains(last.Addresses[len(last.Addresses)-1], "/"):
			last.Addresses[len(last.Addresses)-1] += "/" + prefixOf(f[1])
		case f[0] == "gateway":
			last.Gateway = f[1]
		case f[0] == "dns-nameservers":
			for _, s := range f[1:] {
				d.try(n, "name server", at, func(c *nodeconfig.Config) { c.Network.DNS = append(c.Network.DNS, s) })
			}
		default:
			d.note(at, f[0], "no part of a node config")
		}
	}
	for i, in := range list {
		if in.Name != "lo" || len(in.Addresses) > 0 {
			d.placeInterface(n, in, places[i])
		}
	}
	d.plainDHCP(n)
}
