package etc

import (
	"crypto/pbkdf2"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// network writes /etc/network/interfaces, in the words that busybox' ifup and
// ifupdown-ng both know, and the name servers.
func (b *builder) network() {
	n := b.Config.Network
	list := n.Interfaces
	if len(list) == 0 {
		list = []nodeconfig.Interface{{Name: "eth0"}}
		if len(n.Wifi.Networks) > 0 {
			list = append(list, nodeconfig.Interface{Name: "wlan0"})
		}
	}
	var s strings.Builder
	s.WriteString(mark + "auto lo\niface lo inet loopback\n")
	for _, in := range list {
		if in.Name == nodeconfig.Loopback {
			// In the one stanza: ifup refuses a file that has an interface twice.
			// Before the method: where lo is up already, the kernel has given it
			// 127.0.0.1, busybox fails to add that, and leaves out what is after.
			for _, a := range in.Addresses {
				fmt.Fprintf(&s, "\tpre-up ip addr replace %s dev lo\n", a)
			}
		}
	}
	for _, in := range list {
		if in.Name != nodeconfig.Loopback {
			b.iface(&s, in)
		}
	}
	b.add("/etc/network/interfaces", s.String(), 0)
	b.resolver(n)
	b.wifi(n.Wifi)
}

// resolver writes where names are looked up. udhcpc's script reads udhcpc.conf
// as shell, in which what it sets replaces what the lease said.
func (b *builder) resolver(n nodeconfig.Network) {
	search := strings.Join(n.Search, " ")
	if len(n.DNS) == 0 {
		if search != "" {
			b.add("/etc/udhcpc/udhcpc.conf", mark+fmt.Sprintf("search=%[1]q\ndomain=%[1]q\n", search), 0)
		}
		return
	}
	var r strings.Builder
	r.WriteString(mark)
	if search != "" {
		fmt.Fprintf(&r, "search %s\n", search)
	}
	for _, d := range n.DNS {
		fmt.Fprintf(&r, "nameserver %s\n", d)
	}
	b.add("/etc/resolv.conf", r.String(), 0)
	// Alpine's script for leases then leaves the file alone.
	b.add("/etc/udhcpc/udhcpc.conf", mark+"RESOLV_CONF=\"no\"\n", 0)
}

// stanza is one interface as it is written: the lines that make the link, in
// front of everything else, and those for when it is up.
type stanza struct {
	before, after []string
}

func (s *stanza) pre(format string, args ...any) {
	s.before = append(s.before, "pre-up "+fmt.Sprintf(format, args...))
}

func (s *stanza) up(format string, args ...any) {
	s.after = append(s.after, "up "+fmt.Sprintf(format, args...))
}

// iface writes one interface. The first address of each family is the
// interface's, the others are added when it is up. What busybox' ifup has no
// word for, or has it for one method only, such as mtu, are commands.
func (b *builder) iface(w *strings.Builder, in nodeconfig.Interface) {
	var s stanza
	b.link(&s, in)
	if in.MTU != 0 {
		s.pre("ip link set dev %s mtu %d", in.Name, in.MTU)
	}
	if in.SLAAC {
		// 2 takes advertisements also where packets are forwarded
		// (Documentation/networking/ip-sysctl.rst: accept_ra).
		s.pre("echo 2 >/proc/sys/net/ipv6/conf/%s/accept_ra", in.Name)
	}
	fmt.Fprintf(w, "\nauto %s\n", in.Name)
	first := true
	head := func(family, method string, options ...string) {
		fmt.Fprintf(w, "iface %s %s %s\n", in.Name, family, method)
		if first {
			options = append(append([]string(nil), s.before...), options...)
		}
		first = false
		for _, o := range options {
			fmt.Fprintf(w, "\t%s\n", o)
		}
	}
	gateway4, gateway6 := in.Gateways()
	var nets []netip.Prefix
	if in.UsesDHCP() {
		// -b: without a lease it goes on asking, instead of giving up for good.
		head("inet", "dhcp", "hostname "+b.Identity.Hostname, "udhcpc_opts -b")
	} else {
		nets = static(head, &s, in, &gateway4, &gateway6)
	}
	if first {
		head("inet", "manual")
		s.after = append([]string{"up ip link set dev " + in.Name + " up"}, s.after...)
	}
	if in.UsesDHCP() {
		for _, a := range in.Addresses {
			s.up("ip addr add %s dev %s", a, in.Name)
			if p, err := netip.ParsePrefix(a); err == nil {
				nets = append(nets, p)
			}
		}
	}
	for _, gateway := range []netip.Addr{gateway4, gateway6} {
		if gateway.IsValid() {
			s.up("ip route replace %s dev %s via %s%s", allOf(gateway), in.Name, gateway, onLink(nets, gateway))
		}
	}
	for _, r := range in.Routes {
		s.up("%s", route(in, nets, r))
	}
	for _, line := range s.after {
		fmt.Fprintf(w, "\t%s\n", line)
	}
}

// static writes the addresses of an interface, and returns them. A gateway that
// ifup can set, being in the network of its family's first address, it takes
// out of gateway4 and gateway6.
func static(head func(string, string, ...string), s *stanza, in nodeconfig.Interface, gateway4, gateway6 *netip.Addr) []netip.Prefix {
	var nets []netip.Prefix
	var seen4, seen6 bool
	for _, text := range in.Addresses {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			continue // the config was checked
		}
		nets = append(nets, p)
		family, mask, seen, gateway := "inet", net.IP(net.CIDRMask(p.Bits(), 32)).String(), &seen4, gateway4
		if p.Addr().Is6() {
			family, mask, seen, gateway = "inet6", fmt.Sprint(p.Bits()), &seen6, gateway6
		}
		if *seen {
			s.up("ip addr add %s dev %s", text, in.Name)
			continue
		}
		*seen = true
		options := []string{"address " + p.Addr().String(), "netmask " + mask}
		if gateway.IsValid() && p.Contains(*gateway) {
			options = append(options, "gateway "+gateway.String())
			*gateway = netip.Addr{}
		}
		head(family, "static", options...)
	}
	return nets
}

// allOf returns the network of all addresses of a router's family.
func allOf(router netip.Addr) netip.Prefix {
	p, _ := router.Prefix(0)
	return p
}

// onLink has the kernel ask a router on the link that is in no network of the
// interface. It does so by itself where the router's address is link-local.
func onLink(nets []netip.Prefix, router netip.Addr) string {
	if router.Is6() && router.IsLinkLocalUnicast() || slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Contains(router) }) {
		return ""
	}
	return " onlink"
}

func route(in nodeconfig.Interface, nets []netip.Prefix, r nodeconfig.Route) string {
	line := "ip route replace " + r.To
	if via, err := netip.ParseAddr(r.Via); err == nil {
		line += " dev " + in.Name + " via " + r.Via
		if !in.UsesDHCP() { // with DHCP not all of its networks are known here
			line += onLink(nets, via)
		}
	} else {
		line += " dev " + in.Name
	}
	if r.Metric != 0 {
		line += fmt.Sprintf(" metric %d", r.Metric)
	}
	return line
}

// link makes a virtual interface. One that is there already is left, so that ifup
// may run again.
func (b *builder) link(s *stanza, in nodeconfig.Interface) {
	const unless = "[ -e /sys/class/net/%[1]s ] || ip link add "
	switch number, parent := in.VLANOn(); {
	case number != 0:
		b.needModule(in.Name, "8021q")
		s.pre("ip link set dev %s up", parent)
		s.pre(unless+"link %[2]s name %[1]s type vlan id %[3]d", in.Name, parent, number)
	case len(in.Bond.Ports) > 0:
		b.needModule(in.Name, "bonding")
		mode := in.Bond.Mode
		if mode == "" {
			mode = "active-backup"
		}
		// The module makes a bond0 of its own unless it is told not to. The mode
		// can be set only while the bond has no ports.
		s.pre("modprobe -q bonding max_bonds=0 || :")
		s.pre(unless+"name %[1]s type bond", in.Name)
		s.pre("[ -n \"$(cat /sys/class/net/%[1]s/bonding/slaves)\" ] || "+
			"{ echo %[2]s >/sys/class/net/%[1]s/bonding/mode && echo 100 >/sys/class/net/%[1]s/bonding/miimon; }", in.Name, mode)
	case len(in.Bridge.Ports) > 0:
		b.needModule(in.Name, "bridge")
		s.pre(unless+"name %[1]s type bridge", in.Name)
	case in.Dummy:
		b.needModule(in.Name, "dummy")
		// The module makes a dummy0 of its own unless it is told not to.
		s.pre("modprobe -q dummy numdummies=0 || :")
		s.pre(unless+"name %[1]s type dummy", in.Name)
	}
	for _, port := range in.Ports() {
		// A bond takes an interface that is down only, and sets it up itself.
		s.pre("[ -e /sys/class/net/%[1]s/master ] || { ip link set dev %[1]s down && ip link set dev %[1]s master %[2]s; }", port, in.Name)
		s.pre("ip link set dev %s up", port)
	}
}

// needModule tells of a kernel module that the image does not have.
func (b *builder) needModule(iface, name string) {
	lists, _ := fs.Glob(b.Root, "lib/modules/*/modules.*")
	for _, list := range lists {
		if base := path.Base(list); (base == "modules.dep" || base == "modules.builtin") && strings.Contains(b.read(list), "/"+name+".ko") {
			return
		}
	}
	b.problem("network: %s needs the kernel module %s, which the image does not have", iface, name)
}

// wifi writes the wireless networks. None of this was tried on hardware
// (docs/hardware.md): no virtual Pi has a radio.
func (b *builder) wifi(w nodeconfig.Wifi) {
	if len(w.Networks) == 0 {
		return
	}
	if !b.has("/sbin/wpa_supplicant") && !b.has("/usr/sbin/wpa_supplicant") {
		b.problem("network.wifi: the image has no wpa_supplicant; add the overlay wifi")
		return
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%scountry=%s\nctrl_interface=/run/wpa_supplicant\nupdate_config=0\n", mark, w.Country)
	for i, n := range w.Networks {
		fmt.Fprintf(&s, "network={\n\tssid=%x\n", n.SSID) // in hexadecimal any name is itself
		if n.Hidden {
			s.WriteString("\tscan_ssid=1\n")
		}
		switch {
		case n.EAP != (nodeconfig.EAP{}):
			b.eap(&s, n)
		case n.Password == "":
			s.WriteString("\tkey_mgmt=NONE\n")
		case n.IsKey(): // made of the password, which SAE wants itself
			fmt.Fprintf(&s, "\tpsk=%s\n\tkey_mgmt=WPA-PSK\n", n.Password)
		default:
			fmt.Fprintf(&s, "\tpsk=%s\n", passphrase(n))
			if !quotable(n.Password) {
				fmt.Fprintf(&s, "\tsae_password=%x\n", n.Password)
			}
			s.WriteString("\tkey_mgmt=WPA-PSK SAE\n\tieee80211w=1\n")
		}
		fmt.Fprintf(&s, "\tpriority=%d\n}\n", len(w.Networks)-i)
	}
	b.add("/etc/wpa_supplicant/wpa_supplicant.conf", s.String(), 0o600)
	b.add("/etc/conf.d/wpa_supplicant", mark+"wpa_supplicant_args=\"-c "+
		"/etc/wpa_supplicant/wpa_supplicant.conf\"\nwpa_supplicant_if=wlan0\n", 0)
}

// quotable reports whether wpa_supplicant reads a value in quotes as it is: the
// value ends at the last quote of the line (wpa_config_parse_string in
// wpa_supplicant/config.c), but a # that no pair of quotes is around begins a
// comment (wpa_config_get_line in wpa_supplicant/config_file.c).
func quotable(value string) bool {
	inside := true
	for _, r := range value {
		if r == '"' {
			inside = !inside
		} else if r == '#' && !inside {
			return false
		}
	}
	return true
}

// quoted returns a value for wpa_supplicant: in quotes, or in hexadecimal digits.
func quoted(value string) string {
	if quotable(value) {
		return `"` + value + `"`
	}
	return fmt.Sprintf("%x", value)
}

// passphrase returns a password as the value of psk. One that cannot stand in
// quotes is the key that WPA2 makes of it (IEEE 802.11-2020, annex J.4).
func passphrase(n nodeconfig.WifiNetwork) string {
	if quotable(n.Password) {
		return quoted(n.Password)
	}
	key, err := pbkdf2.Key(sha1.New, n.Password, []byte(n.SSID), 4096, 32)
	if err != nil { // only of lengths that are not these
		return ""
	}
	return hex.EncodeToString(key)
}

// eap writes the account for a network.
func (b *builder) eap(s *strings.Builder, n nodeconfig.WifiNetwork) {
	e := n.EAP
	method, inner := "PEAP", "auth=MSCHAPV2"
	if e.Method == nodeconfig.MethodTTLS {
		method, inner = "TTLS", "auth=PAP"
	}
	fmt.Fprintf(s, "\tkey_mgmt=WPA-EAP\n\teap=%s\n\tphase2=\"%s\"\n\tieee80211w=1\n", method, inner)
	for _, f := range []struct{ name, value string }{
		{"identity", e.Identity}, {"anonymous_identity", e.Anonymous}, {"password", e.Password},
		{"ca_cert", e.CA}, {"domain_suffix_match", e.Domain},
	} {
		if f.value != "" {
			fmt.Fprintf(s, "\t%s=%s\n", f.name, quoted(f.value))
		}
	}
	if !b.has(e.CA) && !slices.ContainsFunc(b.Config.Files, func(f nodeconfig.File) bool { return f.Path == e.CA }) {
		b.problem("network.wifi: %s, which has the certificate for %q, is neither in the image nor one of files", e.CA, n.SSID)
	}
}
