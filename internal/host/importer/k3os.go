package importer

import (
	"fmt"
	"net"
	"path"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// k3os reads a config.yaml of k3OS (rancher/k3os, "Configuration Reference").
func (d *draft) k3os(name string) error {
	b, err := d.files.read(name)
	if err != nil {
		return err
	}
	v, err := d.parse(name, b, 0)
	if err != nil {
		return err
	}
	if v.Kind != yaml.MappingNode {
		return hint.With(fmt.Errorf("%s: %w", name, ErrNothing), "want a config.yaml of k3OS")
	}
	n := d.node()
	// Generators of images for Pis name a config after the machine's address
	// (sgielen/picl-k3os-image-generator).
	if mac, err := net.ParseMAC(strings.TrimSuffix(path.Base(name), path.Ext(name))); err == nil && len(mac) == 6 {
		n.MAC = mac.String()
	}
	k := v.get("k3os")
	var words []word
	for _, item := range k.get("k3s_args").items() {
		words = append(words, word{strings.TrimSpace(item.text()), item.at()})
	}
	// k3OS starts an agent where it knows a server, and the arguments name no role.
	if n.K3s.Role = roleOf(words); n.K3s.Role == "" {
		n.K3s.Role = "server"
		if k.get("server_url").text() != "" {
			n.K3s.Role = "agent"
		}
	}
	for _, e := range v.entries() {
		switch e.key {
		case "k3os":
			for _, e := range e.entries() {
				d.k3osField(n, e)
			}
		case "hostname":
			d.hostname(n, strings.TrimSpace(e.text()), e.at)
		case "ssh_authorized_keys":
			d.user(n, "rancher", e.texts("key"), true, e.at)
		case "write_files":
			d.writeFiles(n, e.value)
		case "init_cmd", "boot_cmd", "run_cmd", "initcmd", "bootcmd", "runcmd":
			for _, item := range e.items() {
				d.note(item.at(), e.key, "commands are not carried; a service in an overlay runs at boot")
			}
		default:
			d.note(e.at, e.key, "no part of a node config that pikelet knows of")
		}
	}
	d.arguments(n, spread(words))
	if n.Hostname == "" && n.MAC == "" {
		n.Hostname = "node"
		d.note(place{name, 0}, "hostname", "the file has none; it became node")
	}
	return nil
}

// spread splits arguments that hold an option and its value with a blank between
// them. k3OS itself passes such a one on as it is, and k3s refuses it.
func spread(words []word) (list []word) {
	for _, w := range words {
		if strings.HasPrefix(w.text, "-") && strings.Contains(w.text, " ") && !strings.Contains(w.text, "=") {
			list = append(list, splitWords(w.text, func(int) place { return w.at })...)
			continue
		}
		list = append(list, w)
	}
	return list
}

func (d *draft) k3osField(n *nodeconfig.Node, e entry) {
	switch e.key {
	case "k3s_args": // read above
	case "server_url":
		d.option(n, "server", strings.TrimSpace(e.text()), e.at)
	case "token":
		d.secret(&n.K3s.Token, "k3s.token", strings.TrimSpace(e.text()), e.at)
	case "labels":
		for _, l := range e.entries() {
			if val, ok := l.plain("label " + l.key); ok {
				d.label(n, l.key+"="+val, l.at)
			}
		}
	case "taints":
		for _, item := range e.items() {
			d.taint(n, strings.TrimSpace(item.text()), item.at())
		}
	case "modules":
		for _, item := range e.items() {
			d.try(n, "module", item.at(), func(c *nodeconfig.Config) { c.Modules = append(c.Modules, strings.TrimSpace(item.text())) })
		}
	case "sysctl", "sysctls":
		for _, s := range e.entries() {
			if val, ok := s.plain("sysctl " + s.key); ok {
				d.sysctl(n, s.key, val, s.at)
			}
		}
	case "dns_nameservers":
		d.dns(n, e.value)
	case "ntp_servers":
		for _, item := range e.items() {
			d.try(n, "ntp server", item.at(), func(c *nodeconfig.Config) { c.Time.Servers = append(c.Time.Servers, strings.TrimSpace(item.text())) })
		}
	case "wifi":
		for _, item := range e.items() {
			d.wifi(n, strings.TrimSpace(item.get("name").text()), item.get("passphrase"), item.at())
		}
	case "password":
		d.note(e.at, "k3os.password", "nodes have no passwords; a user logs in with a key")
	case "environment":
		for _, v := range e.entries() {
			d.variable(n, v.key, strings.TrimSpace(v.text()), v.at)
		}
	case "data_sources":
		d.note(e.at, "k3os.data_sources", "a node has its config from its card, over SSH or from the boot server (docs/nodes.md)")
	case "install", "upgrade":
		d.note(e.at, "k3os."+e.key, "pikelet flash writes cards, and pikelet upgrade or upgrades.poll changes releases")
	default:
		d.note(e.at, "k3os."+e.key, "no part of a node config that pikelet knows of")
	}
}

// dns reads name servers.
func (d *draft) dns(n *nodeconfig.Node, list value) {
	for _, item := range list.items() {
		address, ok := item.plain("name server")
		if !ok {
			continue
		}
		d.try(n, "name server", item.at(), func(c *nodeconfig.Config) { c.Network.DNS = append(c.Network.DNS, address) })
	}
}

// wifi reads a wireless network. Its country is that of the options, unless the node
// has one already.
func (d *draft) wifi(n *nodeconfig.Node, ssid string, password value, at place) {
	w := nodeconfig.WifiNetwork{SSID: ssid}
	if n.Network.Wifi.Country == "" {
		n.Network.Wifi.Country = d.options.Country
	}
	country := n.Network.Wifi.Country
	if country == "" {
		d.note(at, "wireless network", "no country is known for it; --country XX, as two letters, carries it")
		return
	}
	if text := password.text(); text != "" || password.vault() {
		if password.vault() {
			password.plain("wireless network")
			return
		}
		if d.secret(&w.Password, "network.wifi.networks.password", strings.TrimSpace(text), at); w.Password == "" {
			return
		}
	}
	d.try(n, "wireless network", at, func(c *nodeconfig.Config) {
		c.Network.Wifi.Country = country
		c.Network.Wifi.Networks = append(c.Network.Wifi.Networks, w)
	})
}
