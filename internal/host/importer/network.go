package importer

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// networkConfig reads a network config of cloud-init, version 1 or 2 (netplan's).
func (d *draft) networkConfig(n *nodeconfig.Node, file string, b []byte) error {
	v, err := d.parse(file, b, 0)
	if err != nil {
		return err
	}
	if inner := v.get("network"); inner.Kind == yaml.MappingNode {
		v = inner
	}
	version := v.get("version").text()
	for _, e := range v.entries() {
		switch e.key {
		case "version":
		case "renderer":
			d.note(e.at, "renderer", "nodes have one way to set up their network")
		case "config":
			for _, item := range e.items() {
				d.deviceV1(n, item)
			}
		case "ethernets", "wifis", "vlans", "bonds", "bridges", "dummy-devices":
			for _, dev := range e.entries() {
				if dev.key == "renderer" {
					d.note(dev.at, "renderer", "nodes have one way to set up their network")
					continue
				}
				d.deviceV2(n, e.key, dev)
			}
		default:
			d.notef(e.at, "network "+e.key, "no part of a node config that pikelet knows of, with version %.4q of the format", version)
		}
	}
	d.plainDHCP(n)
	return nil
}

// plainDHCP leaves out the interface that a node sets up anyway.
func (d *draft) plainDHCP(n *nodeconfig.Node) {
	list := n.Network.Interfaces
	if len(list) == 1 && list[0].Name == "eth0" && list[0].DHCP != nil && *list[0].DHCP {
		only := list[0]
		only.DHCP = nil
		if only.MTU == 0 && !only.SLAAC && len(only.Addresses)+len(only.Routes) == 0 {
			n.Network.Interfaces = nil
		}
	}
}

// nameOf returns the kernel's name for a device, and the hardware address that a
// machine is known by.
func (d *draft) nameOf(n *nodeconfig.Node, dev entry) (name string) {
	name = dev.key
	match := dev.get("match")
	if set := dev.get("set-name"); set.text() != "" {
		name = set.text()
	}
	for _, m := range match.entries() {
		switch m.key {
		case "macaddress":
			d.hardware(n, m.text(), m.at)
			if dev.get("set-name").text() == "" && strings.ContainsAny(name, "-.") || len(name) > 15 {
				name = "eth0"
			}
		case "name":
			if pattern := m.text(); strings.ContainsAny(pattern, "*?[") {
				d.notef(m.at, "match "+pattern, "an interface has one name here; it became eth0")
				name = "eth0"
			} else {
				name = pattern
			}
		default:
			d.note(m.at, "match "+m.key, "an interface is found by the kernel's name for it")
		}
	}
	if strings.HasPrefix(name, "enp") || strings.HasPrefix(name, "ens") || strings.HasPrefix(name, "eno") || strings.HasPrefix(name, "end") {
		d.notef(dev.at, "interface "+name, "a name that systemd gives; the kernel's own, which nodes use, is eth0 for a Pi's port")
		name = "eth0"
	}
	return name
}

// hardware takes a hardware address as what a machine is known by, if it has none.
func (d *draft) hardware(n *nodeconfig.Node, text string, at place) {
	mac, err := net.ParseMAC(strings.TrimSpace(text))
	if err != nil || len(mac) != 6 {
		d.note(at, "mac", "no hardware address")
		return
	}
	if n.MAC != "" && n.MAC != mac.String() {
		d.note(at, "mac", "a machine is known by one address, and has one already")
		return
	}
	n.MAC = mac.String()
}

// deviceV2 reads a device of version 2.
func (d *draft) deviceV2(n *nodeconfig.Node, kind string, dev entry) {
	i := nodeconfig.Interface{Name: d.nameOf(n, dev), Dummy: kind == "dummy-devices"}
	what := "interface " + i.Name
	for _, e := range dev.entries() {
		switch e.key {
		case "match", "set-name": // read above
		case "dhcp4":
			i.DHCP = boolOf(e.text())
		case "dhcp6", "accept-ra":
			if on := boolOf(e.text()); on != nil && *on {
				d.note(e.at, what+": "+e.key, "a node takes IPv6 from the router's advertisements; slaac: true has it do so where it forwards packets")
			}
		case "addresses":
			i.Addresses = append(i.Addresses, addressesOf(e)...)
		case "gateway4":
			i.Gateway, _ = e.plain(e.key)
		case "gateway6":
			i.Gateway6, _ = e.plain(e.key)
		case "routes":
			for _, r := range e.items() {
				d.route(&i, what, r.get("to").text(), r.get("via").text(), r.get("metric").text(), r)
			}
		case "nameservers":
			d.dns(n, e.get("addresses"))
			d.search(n, e.get("search"))
		case "mtu":
			i.MTU, _ = strconv.Atoi(e.text())
		case "optional":
			d.note(e.at, what+": optional", "a node waits for no interface")
		case "regulatory-domain":
			if country, ok := e.plain(e.key); ok {
				n.Network.Wifi.Country = strings.ToUpper(country)
			}
		case "access-points": // below, when the country is known
		case "id":
			i.VLAN, _ = strconv.Atoi(e.text())
		case "link":
			i.Parent, _ = e.plain(e.key)
		case "interfaces":
			if kind == "bonds" {
				i.Bond.Ports = e.texts(what)
			} else {
				i.Bridge.Ports = e.texts(what)
			}
		case "parameters":
			for _, p := range e.entries() {
				if p.key == "mode" && kind == "bonds" {
					i.Bond.Mode, _ = p.plain(p.key)
				} else {
					d.note(p.at, what+": "+p.key, "no part of a node config")
				}
			}
		default:
			d.note(e.at, what+": "+e.key, "no part of a node config")
		}
	}
	for _, ap := range dev.get("access-points").entries() {
		d.accessPoint(n, ap)
	}
	if kind == "wifis" && len(n.Network.Wifi.Networks) == 0 && len(dev.get("access-points").Content) > 0 {
		return // without a network to join the interface is of no use
	}
	d.placeInterface(n, i, dev.at)
}

func (d *draft) accessPoint(n *nodeconfig.Node, ap entry) {
	password := ap.get("password")
	hidden := false
	for _, e := range ap.entries() {
		switch e.key {
		case "password":
		case "hidden":
			hidden = e.text() == "true"
		case "auth":
			if management := e.get("key-management").text(); management == "eap" || management == "802.1x" {
				d.note(e.at, "wireless network", "an account with WPA-Enterprise is not carried; network.wifi.networks[].eap has it")
				return
			}
			if e.get("password").text() != "" {
				password = e.get("password")
			}
		default:
			d.note(e.at, "wireless network: "+e.key, "no part of a node config")
		}
	}
	before := len(n.Network.Wifi.Networks)
	d.wifi(n, ap.key, password, ap.at)
	if len(n.Network.Wifi.Networks) > before {
		n.Network.Wifi.Networks[before].Hidden = hidden
	}
}

// placeInterface adds an interface, if a node would take it.
func (d *draft) placeInterface(n *nodeconfig.Node, i nodeconfig.Interface, at place) {
	if i.DHCP != nil && *i.DHCP == (len(i.Addresses) == 0 && !i.SLAAC && !i.Dummy) && *i.DHCP && i.Name != "eth0" {
		i.DHCP = nil // as it is without
	}
	if i.DHCP != nil && !*i.DHCP && len(i.Addresses) > 0 {
		i.DHCP = nil
	}
	d.try(n, "interface "+i.Name, at, func(c *nodeconfig.Config) { c.Network.Interfaces = append(c.Network.Interfaces, i) })
}

func (d *draft) route(i *nodeconfig.Interface, what, to, via, metric string, r value) {
	if strings.Contains(to+via+metric, hole) {
		d.note(r.at(), what+": route", "a template, which is not evaluated")
		return
	}
	router, err := netip.ParseAddr(via)
	if slices.Contains([]string{"default", "0.0.0.0/0", "::/0", "0.0.0.0"}, to) && err == nil && metric == "" {
		switch {
		case router.Is4() && i.Gateway == "":
			i.Gateway = via
			return
		case router.Is6() && i.Gateway6 == "":
			i.Gateway6 = via
			return
		}
	}
	if to == "default" {
		to = "0.0.0.0/0"
		if router.Is6() {
			to = "::/0"
		}
	}
	m, _ := strconv.Atoi(metric)
	i.Routes = append(i.Routes, nodeconfig.Route{To: to, Via: via, Metric: m})
}

func (d *draft) search(n *nodeconfig.Node, list value) {
	for _, domain := range list.texts("search domain") {
		d.try(n, "search domain", list.at(), func(c *nodeconfig.Config) { c.Network.Search = append(c.Network.Search, domain) })
	}
}

// addressesOf returns addresses, of which netplan may have options as well.
func addressesOf(e entry) (list []string) {
	for _, item := range e.items() {
		if item.Kind == yaml.MappingNode {
			for _, a := range item.entries() {
				list = append(list, a.key)
				e.d.note(a.at, "address "+a.key, "its options are no part of a node config")
			}
			continue
		}
		if a, ok := item.plain("address"); ok {
			list = append(list, a)
		}
	}
	return list
}

func boolOf(text string) *bool {
	yes := slices.Contains([]string{"true", "yes", "on", "y"}, strings.ToLower(text))
	return &yes
}

// deviceV1 reads a device of version 1.
func (d *draft) deviceV1(n *nodeconfig.Node, dev value) {
	kind := dev.get("type").text()
	i := nodeconfig.Interface{Name: dev.get("name").text()}
	switch kind {
	case "nameserver":
		d.dns(n, dev.get("address"))
		d.search(n, dev.get("search"))
		return
	case "physical", "vlan", "bond", "bridge":
	default:
		d.notef(dev.at(), "network config", "type %.20q is no part of a node config", kind)
		return
	}
	i.Name = d.nameOf(n, entry{i.Name, dev.at(), dev})
	what := "interface " + i.Name
	for _, e := range dev.entries() {
		switch e.key {
		case "type", "name":
		case "mac_address":
			if kind == "physical" {
				d.hardware(n, e.text(), e.at)
			}
		case "mtu":
			i.MTU, _ = strconv.Atoi(e.text())
		case "vlan_id":
			i.VLAN, _ = strconv.Atoi(e.text())
		case "vlan_link":
			i.Parent, _ = e.plain(e.key)
		case "bond_interfaces":
			i.Bond.Ports = e.texts(what)
		case "bridge_interfaces":
			i.Bridge.Ports = e.texts(what)
		case "subnets":
			for _, s := range e.items() {
				d.subnet(n, &i, what, s)
			}
		case "params":
			i.Bond.Mode = e.get("bond-mode").text()
		default:
			d.note(e.at, what+": "+e.key, "no part of a node config")
		}
	}
	d.placeInterface(n, i, dev.at())
}

func (d *draft) subnet(n *nodeconfig.Node, i *nodeconfig.Interface, what string, s value) {
	switch kind := s.get("type").text(); kind {
	case "dhcp", "dhcp4":
		yes := true
		i.DHCP = &yes
	case "static", "static4", "static6":
		address, ok := s.get("address").plain("address")
		if !ok {
			return
		}
		if mask := s.get("netmask").text(); mask != "" && !strings.Contains(address, "/") {
			address += "/" + prefixOf(mask)
		}
		i.Addresses = append(i.Addresses, address)
	case "manual":
		no := false
		i.DHCP = &no
	default:
		d.notef(s.at(), what+": subnet", "type %.20q is not carried; slaac: true takes IPv6 from the router's advertisements", kind)
	}
	for _, e := range s.entries() {
		switch e.key {
		case "type", "address", "netmask":
		case "gateway":
			d.route(i, what, "default", e.text(), "", e.value)
		case "dns_nameservers":
			d.dns(n, e.value)
		case "dns_search":
			d.search(n, e.value)
		case "routes":
			for _, r := range e.items() {
				to := r.get("network").text()
				if to == "" {
					to = r.get("destination").text()
				}
				if mask := r.get("netmask").text(); mask != "" && !strings.Contains(to, "/") {
					to += "/" + prefixOf(mask)
				}
				d.route(i, what, to, r.get("gateway").text(), r.get("metric").text(), r)
			}
		default:
			d.note(e.at, what+": "+e.key, "no part of a node config")
		}
	}
}

// prefixOf returns the length of a netmask such as 255.255.255.0.
func prefixOf(mask string) string {
	a, err := netip.ParseAddr(mask)
	if err != nil || !a.Is4() {
		return mask
	}
	b := a.As4()
	ones, bits := net.IPMask(b[:]).Size()
	if bits == 0 {
		return mask
	}
	return fmt.Sprint(ones)
}
