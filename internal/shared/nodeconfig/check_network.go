package nodeconfig

import (
	"fmt"
	"net/netip"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

func (c *checker) network(field string, n Network) {
	seen := map[string]int{}
	var gateway4, gateway6 string
	addressed, dhcp := len(n.Interfaces) == 0, len(n.Interfaces) == 0
	for i, in := range n.Interfaces {
		at := fmt.Sprintf("%s.interfaces[%d]", field, i)
		if _, twice := seen[in.Name]; twice {
			c.Add(at+".name", "%s: duplicate interface", in.Name)
		}
		seen[in.Name] = i
		c.link(at, in)
		nets := c.addresses(at, in)
		c.gateways(at, in, nets)
		c.routes(at, in)
		if in.MTU != 0 && (in.MTU < 576 || in.MTU > 9216) {
			c.Add(at+".mtu", "%d: want 576 to 9216", in.MTU)
		}
		one := func(taken *string, name string, a netip.Addr) {
			if a.IsValid() && *taken != "" {
				c.Add(at+"."+name, "%s has a gateway already; only one can be the way to everything else", *taken)
			}
			if a.IsValid() {
				*taken = in.Name
			}
		}
		v4, v6 := in.Gateways()
		one(&gateway4, "gateway", v4)
		one(&gateway6, gatewayField(in), v6)
		dhcp = dhcp || in.UsesDHCP()
		addressed = addressed || in.Name != Loopback && !in.Dummy && (in.UsesDHCP() || in.SLAAC || len(in.Addresses) > 0)
	}
	if !addressed {
		c.Add(field+".interfaces", "none of them would have an address: want dhcp, slaac or addresses for one")
	}
	c.ports(field, n.Interfaces, seen)
	c.names(field, n, dhcp)
	c.wifi(field+".wifi", n.Wifi)
}

// gatewayField returns the field that an interface's IPv6 gateway is in.
func gatewayField(in Interface) string {
	if in.Gateway6 != "" {
		return "gateway6"
	}
	return "gateway"
}

// names looks at where names are looked up.
func (c *checker) names(field string, n Network, dhcp bool) {
	for i, s := range n.DNS {
		if _, err := parseAddr(s); err != nil {
			c.Add(fmt.Sprintf("%s.dns[%d]", field, i), "%q: want the address of a name server", s)
		}
	}
	for i, s := range n.Search {
		if !domainForm.MatchString(s) {
			c.Add(fmt.Sprintf("%s.search[%d]", field, i), "%q: want a domain", s)
		}
	}
	if len(n.Search) > 0 && len(n.DNS) == 0 && !dhcp {
		c.Add(field+".search", "no interface uses DHCP, so there is no name server: want dns too")
	}
}

// bondModes are those of the kernel (Documentation/networking/bonding.rst).
var bondModes = []string{"balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"}

// link looks at what an interface is, and what it is made of.
func (c *checker) link(at string, in Interface) {
	if !ifaceForm.MatchString(in.Name) {
		c.Add(at+".name", "%q: want the kernel's name, such as eth0", in.Name)
		return
	}
	if in.Name == Loopback {
		only := Interface{Name: in.Name, DHCP: in.DHCP, Addresses: in.Addresses}
		if in.UsesDHCP() || !reflect.DeepEqual(in, only) {
			c.Add(at+".name", "lo is the node itself, and takes addresses only")
		}
		return
	}
	number, parent := in.VLANOn()
	vlan := in.VLAN != 0 || in.Parent != "" || strings.Contains(in.Name, ".")
	switch {
	case vlan && (number < 1 || number > 4094):
		c.Add(at+".vlan", "want the number of the VLAN, 1 to 4094, here or after the dot of name, as in eth0.20")
	case vlan && (!ifaceForm.MatchString(parent) || parent == in.Name || parent == Loopback):
		c.Add(at+".parent", "%q: want the interface that the VLAN is on, such as eth0", parent)
	case vlan && len(in.Ports()) > 0, len(in.Bond.Ports) > 0 && len(in.Bridge.Ports) > 0:
		c.Add(at, "an interface is a VLAN, a bond or a bridge, and only one of them")
	case in.Dummy && (vlan || len(in.Ports()) > 0):
		c.Add(at+".dummy", "a dummy is neither VLAN nor bond nor bridge")
	case in.Dummy && (in.UsesDHCP() || in.SLAAC):
		c.Add(at+".dummy", "nothing answers on a dummy; want addresses")
	}
	if in.Bond.Mode != "" && !slices.Contains(bondModes, in.Bond.Mode) {
		c.Add(at+".bond.mode", "%q: want one of %s", in.Bond.Mode, strings.Join(bondModes, ", "))
	}
	if in.Bond.Mode != "" && len(in.Bond.Ports) == 0 {
		c.Add(at+".bond.ports", "none; want the interfaces that the bond is made of, such as [eth0, eth1]")
	}
}

// made reports whether the interface is none of the machine's own.
func (i Interface) made() bool {
	number, _ := i.VLANOn()
	return number != 0 || len(i.Ports()) > 0 || i.Dummy
}

// ports looks at what interfaces are made of: each of those must be there when
// it is needed, belong to one only, and have no address of its own.
func (c *checker) ports(field string, list []Interface, index map[string]int) {
	owner := map[string]string{}
	for i, in := range list {
		at := fmt.Sprintf("%s.interfaces[%d]", field, i)
		above := func(name, of string) {
			if j, listed := index[of]; listed && j > i && list[j].made() {
				c.Add(at+"."+name, "%s is set up below, and %s needs it; move it above", of, in.Name)
			}
		}
		if _, parent := in.VLANOn(); parent != "" {
			above("parent", parent)
		}
		kind := "bond"
		if len(in.Bridge.Ports) > 0 {
			kind = "bridge"
		}
		for p, port := range in.Ports() {
			place := fmt.Sprintf("%s.ports[%d]", kind, p)
			j, listed := index[port]
			switch {
			case !ifaceForm.MatchString(port) || port == Loopback || port == in.Name:
				c.Add(at+"."+place, "%q: want the name of another interface, such as eth0", port)
			case strings.HasPrefix(port, "wlan"):
				c.Add(at+"."+place, "%s is wireless, and access points take no packets of others from it", port)
			case owner[port] != "":
				c.Add(at+"."+place, "%s belongs to %s already", port, owner[port])
			case listed && (list[j].UsesDHCP() || list[j].SLAAC || len(list[j].Addresses) > 0):
				c.Add(at+"."+place, "%s has an address of its own; give it to %s, and say dhcp: false", port, in.Name)
			case strings.Contains(port, ".") && !listed:
				c.Add(at+"."+place, "nothing makes %s; set it up above, with dhcp: false", port)
			}
			above(place, port)
			owner[port] = in.Name
		}
	}
}

// addresses looks at the addresses of an interface, and returns them.
func (c *checker) addresses(at string, in Interface) []netip.Prefix {
	var nets []netip.Prefix
	for a, text := range in.Addresses {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			c.Add(fmt.Sprintf("%s.addresses[%d]", at, a), "%q: want an address and the length of its network, such as 192.168.1.10/24", text)
			continue
		}
		if slices.Contains(nets, p) {
			c.Add(fmt.Sprintf("%s.addresses[%d]", at, a), "%s stands above", text)
		}
		nets = append(nets, p)
		if p.Addr().Is4() && p.Bits() < 31 && p.Addr() == p.Masked().Addr() {
			c.Add(fmt.Sprintf("%s.addresses[%d]", at, a), "%s is the network itself; want an address in it", text)
		}
	}
	return nets
}

func (c *checker) gateways(at string, in Interface, nets []netip.Prefix) {
	check := func(name, text string) netip.Addr {
		gw, err := netip.ParseAddr(text)
		switch {
		case text == "":
			return netip.Addr{}
		case err != nil || gw.Zone() != "" || gw.Is4In6():
			c.Add(at+"."+name, "%q: want an address", text)
			return netip.Addr{}
		case gw.Is4() && in.UsesDHCP():
			c.Add(at+"."+name, "DHCP says what the gateway is; a gateway goes with addresses")
		case slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Addr() == gw }):
			c.Add(at+"."+name, "%s is the address of %s itself; for a default route without a router: routes: [{to: 0.0.0.0/0}]", gw, in.Name)
		case !reaches(nets, gw):
			c.Add(at+"."+name, "%s is in none of the networks of %s", gw, in.Name)
		}
		return gw
	}
	first, second := check("gateway", in.Gateway), check("gateway6", in.Gateway6)
	if second.IsValid() && second.Is4() {
		c.Add(at+".gateway6", "%s: want an IPv6 address", second)
	} else if first.IsValid() && second.IsValid() && first.Is6() {
		c.Add(at+".gateway", "%s is an IPv6 address, and gateway6 has another", first)
	}
}

// reaches reports whether a router can be asked on the link: it is in one of the
// networks; or has a link-local IPv6 address, as routers announce; or the
// interface has an address without a network, as hosting companies give.
func reaches(nets []netip.Prefix, router netip.Addr) bool {
	return router.Is6() && router.IsLinkLocalUnicast() || slices.ContainsFunc(nets, func(p netip.Prefix) bool {
		return p.Contains(router) || p.Addr().Is4() == router.Is4() && p.IsSingleIP()
	})
}

func (c *checker) routes(at string, in Interface) {
	for r, route := range in.Routes {
		here := fmt.Sprintf("%s.routes[%d]", at, r)
		to, err := netip.ParsePrefix(route.To)
		if err != nil || to != to.Masked() {
			c.Add(here+".to", "%q: want a network such as 10.0.0.0/8, or 0.0.0.0/0 for everything", route.To)
			continue
		}
		if via, err := netip.ParseAddr(route.Via); route.Via != "" && (err != nil || via.Zone() != "" || via.Is4() != to.Addr().Is4()) {
			c.Add(here+".via", "%q: want the address of a router, of the same family as %s", route.Via, to)
		}
		if route.Metric < 0 || route.Metric > 65535 {
			c.Add(here+".metric", "%d: want 1 to 65535", route.Metric)
		}
	}
}

// keyDigits is how wpa_supplicant takes a key that was made of a password.
var keyDigits = regexp.MustCompile(`^[0-9A-Fa-f]{64}$`)

// IsKey reports whether the password is a key already.
func (n WifiNetwork) IsKey() bool { return keyDigits.MatchString(n.Password) }

func (c *checker) wifi(field string, w Wifi) {
	if len(w.Networks) > 0 && w.Country == "" {
		c.Add(field+".country", "missing; where the node stands decides which channels it may use: two letters, such as DE")
	}
	if w.Country != "" && !regexp.MustCompile(`^[A-Z]{2}$`).MatchString(w.Country) {
		c.Add(field+".country", "%q: want two capital letters, such as DE", w.Country)
	}
	for i, n := range w.Networks {
		at := fmt.Sprintf("%s.networks[%d]", field, i)
		if n.SSID == "" || len(n.SSID) > 32 || strings.ContainsFunc(n.SSID, isControl) {
			c.Add(at+".ssid", "%q: want a name of 1 to 32 bytes", n.SSID)
		}
		p := n.Password
		if p != "" && !IsEncrypted(p) && !n.IsKey() && (len(p) < 8 || len(p) > 63 || strings.ContainsFunc(p, isControl)) {
			c.Add(at+".password", "it has %d characters; want 8 to 63, or a key of 64 hexadecimal digits", len(p))
		}
		if n.EAP != (EAP{}) {
			c.eap(at, n)
		}
	}
}

func (c *checker) eap(at string, n WifiNetwork) {
	if n.Password != "" {
		c.Add(at+".password", "the network has eap; the password of the account is eap.password")
	}
	at += ".eap"
	e := n.EAP
	if e.Method != "" && e.Method != MethodPEAP && e.Method != MethodTTLS {
		c.Add(at+".method", "%q: want peap or ttls", e.Method)
	}
	if e.Identity == "" {
		c.Add(at+".identity", "missing; want the name of the account")
	}
	if e.Password == "" && !c.public {
		c.Add(at+".password", "missing; want the password of the account")
	}
	if path.Clean(e.CA) != e.CA || !path.IsAbs(e.CA) {
		c.Add(at+".ca", "%q: want the file with the certificate of the authority, such as /etc/ssl/wifi.pem", e.CA)
	}
	if e.Domain != "" && !domainForm.MatchString(e.Domain) {
		c.Add(at+".domain", "%q: want a domain", e.Domain)
	}
	// The values are written into a file of lines, which wpa_supplicant reads up
	// to 256 bytes of each (wpa_config_get_line in wpa_supplicant/config_file.c).
	const longest = 200
	for _, f := range []struct{ name, value string }{
		{"identity", e.Identity}, {"anonymous", e.Anonymous}, {"password", e.Password}, {"ca", e.CA}, {"domain", e.Domain},
	} {
		secret := f.name == "password" && IsEncrypted(f.value)
		if !secret && (len(f.value) > longest || strings.ContainsFunc(f.value, isControl)) {
			c.Add(at+"."+f.name, "want at most %d bytes, without line ends or other control characters", longest)
		}
	}
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
