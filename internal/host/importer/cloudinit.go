package importer

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// ErrForm is returned for user data that is no cloud-config.
var ErrForm = errors.New("the file is no cloud-config")

// cloudInit reads user data, and the network config and the meta data beside it, as
// they lie on a card (cloud-init's NoCloud; Raspberry Pi Imager writes them so).
func (d *draft) cloudInit(name string) error {
	b, err := d.files.read(name)
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(strings.TrimLeft(string(b), "\n"), "\n")
	if strings.TrimSpace(first) != "#cloud-config" {
		advice := "a cloud-config begins with the line #cloud-config"
		if strings.HasPrefix(first, "#!") || strings.HasPrefix(first, "Content-Type") || strings.HasPrefix(first, "#include") {
			advice = "scripts, archives of several parts and lists of addresses are not read; import the cloud-config that is in them"
		}
		return hint.With(fmt.Errorf("%s: %w", name, ErrForm), advice)
	}
	v, err := d.parse(name, b, 0)
	if err != nil {
		return err
	}
	n := d.node()
	d.metaData(n, path.Join(path.Dir(name), "meta-data"))
	// Files may hold k3s' own config, so its role must be known before they are read.
	for _, e := range v.entries() {
		if e.key == "runcmd" {
			d.runcmd(n, e)
		}
	}
	for _, e := range v.entries() {
		d.cloudField(n, v, e)
	}
	network := path.Join(path.Dir(name), "network-config")
	if b, err := d.files.read(network); err == nil {
		if err := d.networkConfig(n, network, b); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if k := n.K3s; k.Role == "" && (k.Token != "" || len(k.Options)+len(k.Labels)+len(k.Taints) > 0) {
		n.K3s.Role = "server"
		if k.Server != "" {
			n.K3s.Role = "agent"
		}
		d.notef(place{name, 0}, "k3s", "neither server nor agent by name; it became %s", n.K3s.Role)
	}
	if n.Hostname == "" {
		n.Hostname = "node"
		d.note(place{name, 0}, "hostname", "the file has none; it became node")
	}
	return nil
}

func (d *draft) metaData(n *nodeconfig.Node, name string) {
	b, err := d.files.read(name)
	if err != nil {
		return
	}
	v, err := d.parse(name, b, 0)
	if err != nil {
		d.note(place{name, 1}, "meta-data", "no YAML")
		return
	}
	for _, e := range v.entries() {
		switch e.key {
		case "local-hostname", "local_hostname":
			d.hostname(n, strings.TrimSpace(e.text()), e.at)
		default:
			d.note(e.at, e.key, "steers cloud-init alone")
		}
	}
}

// cloudNotes are keys of a cloud-config without a place in a node config.
var cloudNotes = map[string]string{
	"packages":                   "packages are part of the image: packages in its spec",
	"package_update":             "packages are part of the image",
	"package_upgrade":            "packages are part of the image",
	"apt":                        "nodes have no apt",
	"snap":                       "nodes have no snaps",
	"ssh_pwauth":                 "nodes have no passwords; users log in with keys",
	"chpasswd":                   "nodes have no passwords; users log in with keys",
	"password":                   "nodes have no passwords; users log in with keys",
	"disable_root":               "root logs in where users names it with a key, and nowhere else",
	"enable_ssh":                 "the overlay ssh is the SSH server; users log in with keys",
	"manage_etc_hosts":           "a node writes /etc/hosts itself",
	"preserve_hostname":          "a node has the name of its config",
	"locale":                     "nodes have no locales",
	"keyboard":                   "a node's console has the kernel's keyboard",
	"growpart":                   "a node's state grows on its first boot",
	"resize_rootfs":              "a node's root never changes, and its state grows on its first boot",
	"power_state":                "a node restarts for a new config or release alone",
	"rpi":                        "config of the image's spec sets up the board's interfaces",
	"swap":                       "nodes have no swap",
	"mounts":                     "volume says where k3s and pods keep their data",
	"fs_setup":                   "volume says where k3s and pods keep their data",
	"disk_setup":                 "volume says where k3s and pods keep their data",
	"final_message":              "steers cloud-init alone",
	"datasource":                 "steers cloud-init alone",
	"datasource_list":            "steers cloud-init alone",
	"cloud_init_modules":         "steers cloud-init alone",
	"output":                     "steers cloud-init alone",
	"ssh_deletekeys":             "a node's host key comes from its seed",
	"ssh_genkeytypes":            "a node's host key comes from its seed",
	"ssh_keys":                   "a node's host key comes from its seed",
	"ssh_import_id":              "names of accounts are no keys; put the keys themselves into users",
	"ca_certs":                   "bring authorities in a layer of the image; registries names those for registries by their files",
	"ca-certs":                   "bring authorities in a layer of the image; registries names those for registries by their files",
	"users_default":              "users log in with keys",
	"byobu_by_default":           "nodes have no byobu",
	"phone_home":                 "no part of a node config that pikelet knows of",
	"package_reboot_if_required": "packages are part of the image",
}

func (d *draft) cloudField(n *nodeconfig.Node, top value, e entry) {
	switch e.key {
	case "runcmd": // read before
	case "hostname":
		d.hostname(n, strings.TrimSpace(e.text()), e.at)
	case "fqdn":
		if top.get("hostname").text() == "" {
			d.hostname(n, strings.TrimSpace(e.text()), e.at)
		} else {
			d.note(e.at, "fqdn", "a node is called by its hostname")
		}
	case "timezone":
		if zone, ok := e.plain("timezone"); ok {
			d.try(n, "timezone", e.at, func(c *nodeconfig.Config) { c.Time.Zone = zone })
		}
	case "ntp":
		for _, f := range e.entries() {
			if f.key != "servers" && f.key != "pools" {
				d.note(f.at, "ntp."+f.key, "nodes have a time client of their own")
				continue
			}
			for _, s := range f.texts("ntp server") {
				d.try(n, "ntp server", f.at, func(c *nodeconfig.Config) { c.Time.Servers = append(c.Time.Servers, s) })
			}
		}
	case "users":
		for _, item := range e.items() {
			d.cloudUser(n, item)
		}
	case "user":
		if e.Kind == yaml.MappingNode {
			d.cloudUser(n, e.value)
		}
	case "ssh_authorized_keys", "ssh-authorized-keys":
		name := "admin"
		if len(n.Users) > 0 {
			name = n.Users[0].Name
		} else if u := firstUser(top); u != "" {
			name = u
		}
		d.user(n, name, e.texts("key"), true, e.at)
	case "write_files":
		d.writeFiles(n, e.value)
	case "bootcmd":
		for _, item := range e.items() {
			d.note(item.at(), "bootcmd", "commands are not carried; a service in an overlay runs at boot")
		}
	default:
		why := cloudNotes[e.key]
		if why == "" {
			why = "no part of a node config that pikelet knows of"
		}
		d.note(e.at, e.key, why)
	}
}

// firstUser returns the first account that a cloud-config makes.
func firstUser(top value) string {
	for _, item := range top.get("users").items() {
		if name := item.get("name").text(); userForm.MatchString(name) {
			return name
		}
	}
	return ""
}

func (d *draft) cloudUser(n *nodeconfig.Node, u value) {
	if u.Kind != yaml.MappingNode {
		if text, _ := u.plain("user"); text == "default" {
			d.note(u.at(), "users: default", "there is no account of a distribution's; a user with a key of your own takes its place")
		} else if text != "" {
			d.user(n, text, d.options.Keys, false, u.at())
		}
		return
	}
	name, admin := strings.TrimSpace(u.get("name").text()), false
	keys, at := slices.Clone(d.options.Keys), u.at()
	var rest []entry
	for _, e := range u.entries() {
		switch e.key {
		case "name":
			at = e.at
		case "sudo", "doas":
			admin = e.text() != "" && e.text() != "false" || len(e.items()) > 0 && e.Kind == yaml.SequenceNode
		case "ssh_authorized_keys", "ssh-authorized-keys":
			keys = append(keys, e.texts("key of "+name)...)
		default:
			rest = append(rest, e)
		}
	}
	for _, e := range rest {
		switch e.key {
		case "passwd", "hashed_passwd", "plain_text_passwd", "lock_passwd", "lock-passwd":
			d.note(e.at, "user "+name+": "+e.key, "nodes have no passwords; a user logs in with a key")
		case "ssh_import_id":
			d.note(e.at, "user "+name+": "+e.key, "names of accounts are no keys; put the keys themselves into users")
		default:
			d.note(e.at, "user "+name+": "+e.key, "an account of a node has a name, keys and whether it is an administrator")
		}
	}
	d.user(n, name, keys, admin, at)
}

// runcmd reads commands that run once: a list of lines, or of words.
func (d *draft) runcmd(n *nodeconfig.Node, list entry) {
	for _, item := range list.items() {
		if item.Kind != yaml.SequenceNode {
			d.script(n, "runcmd", item.file, holed(item.Value), item.inner())
			continue
		}
		var words []string
		for _, w := range item.items() {
			words = append(words, w.Value)
		}
		text := ""
		for _, w := range words {
			text += "'" + strings.ReplaceAll(w, "'", `'\''`) + "' "
		}
		if len(words) > 2 && (path.Base(words[0]) == "sh" || path.Base(words[0]) == "bash") && strings.HasPrefix(words[1], "-") &&
			strings.HasSuffix(words[1], "c") {
			text = words[2]
		}
		d.script(n, "runcmd", item.file, holed(text), item.at().line-1)
	}
}

// holed replaces templates that a shell would not read by variables, which are holes
// to it.
func holed(text string) string { return strings.ReplaceAll(holes(text), hole, "${template}") }
