package importer

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// Installed is a k3s server that its installer, k3s-io/k3s-ansible or a person set up.
type Installed struct {
	Files     fs.FS    // of its machine, by their paths without the first slash
	Configs   []string // files of config.yaml.d, in order
	Drops     []string // files of k3s.service.d, in order
	Node      string   // what the machine is called
	NewName   string   // of the node that takes its place; "" for one made of Node
	Addresses []string // of the machine, with their prefixes
	Token     string   // of its server directory, for one that its configuration does not have
	Static    []string // names in k3s' static directory that are not its own
}

// Taken is what becomes of an installed server.
type Taken struct {
	*Result
	Node     string // what the cluster calls it
	DataDir  string // where it keeps its data; "" for k3s' own place
	External bool   // whether its datastore is a database elsewhere
}

// Server reads the configuration of a server into an inventory with one node.
func Server(s Installed, o Options) (*Taken, error) {
	d := &draft{files: reader{fsys: s.Files}, options: o, sealed: map[string]string{}}
	n := d.node()
	n.K3s.Role = "server"
	taken := &Taken{Node: s.Node}
	if err := d.installed(n, s); err != nil {
		return nil, err
	}
	if n.Hostname != "" {
		taken.Node = n.Hostname
	}
	_, taken.External = n.K3s.Options["datastore-endpoint"]
	taken.External = taken.External || slices.Contains(d.leftOut, "k3s.options.datastore-endpoint")
	taken.DataDir = d.dataDir
	if n.K3s.Token == "" && s.Token != "" && !slices.Contains(d.leftOut, "k3s.token") {
		d.secret(&n.K3s.Token, "k3s.token", s.Token, place{"var/lib/rancher/k3s/server/token", 1})
	}
	if n.Hostname = s.NewName; n.Hostname == "" {
		d.hostname(n, taken.Node+"-2", place{"etc/hostname", 1})
	}
	if n.Hostname != taken.Node {
		d.notef(place{"etc/hostname", 1}, "hostname", "the new node is called %s: k3s knows %s by a password that stays on the old machine; "+
			"delete the Node %s once its pods have moved", n.Hostname, taken.Node, taken.Node)
	}
	if len(o.Keys) > 0 {
		d.user(n, "admin", o.Keys, true, place{"etc/passwd", 0})
	} else {
		d.note(place{"etc/passwd", 0}, "users", "accounts are not carried; --ssh-key FILE.pub has an administrator log in")
	}
	for _, a := range s.Addresses {
		d.notef(place{"etc/network", 0}, "address "+a, "agents that know the server by it find it again where the new node has it; "+
			"reserve it, or write it into network.interfaces")
	}
	for _, name := range s.Static {
		d.note(place{"var/lib/rancher/k3s/server/static", 0}, name, "not in the backup; bring it in an overlay or through files")
	}
	var err error
	taken.Result, err = d.result(s.Node)
	return taken, err
}

// installed reads all files that configure a server. Where several say something, the
// command line counts rather than the environment, and that rather than config.yaml.
func (d *draft) installed(n *nodeconfig.Node, s Installed) error {
	optional := func(name string, read func(file, text string)) error {
		b, err := d.files.read(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			read(name, string(b))
		}
		return err
	}
	type source struct {
		name string
		read func(file, text string)
	}
	list := []source{{"etc/rancher/k3s/registries.yaml", func(file, text string) { d.registriesFile(n, file, text, 0) }}}
	for _, name := range append([]string{"etc/rancher/k3s/config.yaml"}, s.Configs...) {
		list = append(list, source{name, func(file, text string) {
			d.overrides = true
			d.configFile(n, file, text, 0)
			d.overrides = false
		}})
	}
	for _, name := range []string{"etc/systemd/system/k3s.service.env", "etc/rancher/k3s/k3s.env", "etc/default/k3s", "etc/sysconfig/k3s"} {
		list = append(list, source{name, func(file, text string) { d.environment(n, file, text) }})
	}
	for _, name := range append([]string{"etc/systemd/system/k3s.service"}, s.Drops...) {
		list = append(list, source{name, func(file, text string) { d.unit(n, file, text) }})
	}
	list = append(list, source{"etc/conf.d/k3s", func(file, text string) { d.openrc(n, file, text) }},
		source{"etc/init.d/k3s", func(file, text string) { d.openrc(n, file, text) }})
	for _, one := range list {
		if err := optional(one.name, one.read); err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
	}
	return nil
}

// environment reads a file of variables, as systemd takes it.
func (d *draft) environment(n *nodeconfig.Node, file, text string) {
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		name, val, ok := strings.Cut(line, "=")
		if line == "" || line[0] == '#' || !ok || name == "PATH" || name == "CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS" {
			continue
		}
		if words := splitWords(val, func(int) place { return place{} }); len(words) == 1 {
			val = words[0].text
		}
		d.variable(n, strings.TrimPrefix(name, "export "), val, place{file, i + 1})
	}
}

// unit reads what a unit of systemd starts k3s with.
func (d *draft) unit(n *nodeconfig.Node, file, text string) {
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		key, val, _ := strings.Cut(lines[i], "=")
		first := i
		for strings.HasSuffix(val, `\`) && i+1 < len(lines) {
			i++
			val += "\n" + lines[i]
		}
		at := func(n int) place { return place{file, first + 1 + n} }
		switch strings.TrimSpace(key) {
		case "ExecStart":
			if words := splitWords(val, at); len(words) > 0 && strings.Contains(words[0].text, "k3s") {
				d.arguments(n, words[1:])
			}
		case "Environment":
			for _, w := range splitWords(val, at) {
				if name, val, ok := strings.Cut(w.text, "="); ok {
					d.variable(n, name, val, w.at)
				}
			}
		}
	}
}

// openrc reads what a service of OpenRC starts k3s with: command_args of its script or
// of its configuration.
func (d *draft) openrc(n *nodeconfig.Node, file, text string) {
	list, ok := commands(file, text, 0)
	if !ok {
		d.note(place{file, 1}, "the service", "no shell script; its arguments are not carried")
		return
	}
	for _, pipe := range list {
		for _, c := range pipe {
			for _, v := range c.vars {
				switch {
				case v.name == "command_args" || v.name == "K3S_OPTS" || v.name == "K3S_EXEC":
					val, _, _ := strings.Cut(v.val, ">>") // where the installer sends the log
					words := splitWords(val, func(n int) place { return place{file, v.at.line + n} })
					d.arguments(n, slices.DeleteFunc(words, func(w word) bool { return w.text == hole }))
				case strings.HasPrefix(v.name, "K3S_"):
					d.variable(n, v.name, v.val, v.at)
				}
			}
		}
	}
}
