package etc

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/pikelet-os/pikelet/internal/node/config"
)

// network writes /etc/network/interfaces, in the words that busybox' ifup and
// ifupdown-ng both know, and the name servers.
func (b *builder) network() {
	n := b.Config.Network
	list := n.Interfaces
	if len(list) == 0 {
		list = []config.Interface{{Name: "eth0"}}
		if len(n.Wifi.Networks) > 0 {
			list = append(list, config.Interface{Name: "wlan0"})
		}
	}
	var s strings.Builder
	s.WriteString(mark + "auto lo\niface lo inet loopback\n")
	for _, in := range list {
		b.iface(&s, in)
	}
	b.add("/etc/network/interfaces", s.String(), 0)
	if len(n.DNS) > 0 {
		var r strings.Builder
		r.WriteString(mark)
		if len(n.Search) > 0 {
			fmt.Fprintf(&r, "search %s\n", strings.Join(n.Search, " "))
		}
		for _, d := range n.DNS {
			fmt.Fprintf(&r, "nameserver %s\n", d)
		}
		b.add("/etc/resolv.conf", r.String(), 0)
		// Alpine's script for leases then leaves the file alone.
		b.add("/etc/udhcpc/udhcpc.conf", mark+"RESOLV_CONF=\"no\"\n", 0)
	}
	b.wifi(n.Wifi)
}

// iface writes one interface. The first address of each family is the
// interface's, the others are added when it is up.
func (b *builder) iface(s *strings.Builder, in config.Interface) {
	fmt.Fprintf(s, "\nauto %s\n", in.Name)
	option := func(format string, args ...any) { fmt.Fprintf(s, "\t"+format+"\n", args...) }
	common := func() {
		if in.MTU != 0 {
			option("mtu %d", in.MTU)
		}
	}
	if in.UsesDHCP() {
		fmt.Fprintf(s, "iface %s inet dhcp\n", in.Name)
		option("hostname %s", b.Identity.Hostname)
		option("udhcpc_opts -b") // without a lease it goes on asking, instead of giving up for good
		common()
		for _, a := range in.Addresses {
			option("up ip addr add %s dev %s", a, in.Name)
		}
		return
	}
	gateway, _ := netip.ParseAddr(in.Gateway)
	var seen4, seen6 bool
	var more []string
	for _, text := range in.Addresses {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			continue // the config was checked
		}
		family, mask, first := "inet", net.IP(net.CIDRMask(p.Bits(), 32)).String(), !seen4
		if p.Addr().Is6() {
			family, mask, first = "inet6", fmt.Sprint(p.Bits()), !seen6
			seen6 = true
		} else {
			seen4 = true
		}
		if !first {
			more = append(more, text)
			continue
		}
		fmt.Fprintf(s, "iface %s %s static\n", in.Name, family)
		option("address %s", p.Addr())
		option("netmask %s", mask)
		if gateway.IsValid() && gateway.Is6() == p.Addr().Is6() {
			option("gateway %s", gateway)
		}
		common()
	}
	for _, a := range more {
		option("up ip addr add %s dev %s", a, in.Name)
	}
}

// wifi writes the wireless networks. None of this was tried on hardware
// (docs/hardware.md): no virtual Pi has a radio.
func (b *builder) wifi(w config.Wifi) {
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
		if n.Password == "" {
			s.WriteString("\tkey_mgmt=NONE\n")
		} else {
			fmt.Fprintf(&s, "\tpsk=\"%s\"\n\tkey_mgmt=WPA-PSK SAE\n\tieee80211w=1\n", n.Password)
		}
		fmt.Fprintf(&s, "\tpriority=%d\n}\n", len(w.Networks)-i)
	}
	b.add("/etc/wpa_supplicant/wpa_supplicant.conf", s.String(), 0o600)
	b.add("/etc/conf.d/wpa_supplicant", mark+"wpa_supplicant_args=\"-c /etc/wpa_supplicant/wpa_supplicant.conf\"\nwpa_supplicant_if=wlan0\n", 0)
}
