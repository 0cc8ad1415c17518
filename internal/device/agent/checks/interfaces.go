package checks

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/agent/sysfs"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

func interfacesCheck(s state) node.Check {
	return result("interfaces", "as the node config says", askedProblem(s.cfg.Network))
}

// link is one interface as the kernel has it.
type link struct {
	up        bool
	addresses []netip.Prefix
	mtu       int
}

// links returns the interfaces of this node, by name.
func links() (map[string]link, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	all := map[string]link{}
	for _, i := range list {
		l := link{up: i.Flags&net.FlagUp != 0, mtu: i.MTU}
		addresses, err := i.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addresses {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				l.addresses = append(l.addresses, p)
			}
		}
		all[i.Name] = l
	}
	return all, nil
}

// interfacesProblem returns what of the interfaces that a config asks for did
// not come to be; "" where all did. OpenRC counts networking as started also
// where ifup failed. Whether a DHCP server answers is networkProblem's.
func interfacesProblem(list []nodeconfig.Interface, have map[string]link) string {
	var wrong []string
	for _, in := range list {
		l, there := have[in.Name]
		switch {
		case !there:
			wrong = append(wrong, in.Name+" is not there: is its name right, is its driver in the image?")
			continue
		case !l.up:
			wrong = append(wrong, in.Name+" is not up: ifup failed; ifup -f "+in.Name+" says why")
			continue
		case in.MTU != 0 && l.mtu != in.MTU:
			wrong = append(wrong, fmt.Sprintf("%s has mtu %d, want %d", in.Name, l.mtu, in.MTU))
		}
		for _, text := range in.Addresses {
			if p, err := netip.ParsePrefix(text); err == nil && !slices.Contains(l.addresses, p) {
				wrong = append(wrong, in.Name+" does not have the address "+text)
			}
		}
		for _, port := range in.Ports() {
			if _, there := have[port]; !there {
				wrong = append(wrong, fmt.Sprintf("%s, a port of %s, is not there", port, in.Name))
			}
		}
	}
	return strings.Join(wrong, "; ")
}

// gatewaysProblem returns which gateways of a config are no default route, by
// the routing tables as /proc/net/route and /proc/net/ipv6_route have them.
func gatewaysProblem(list []nodeconfig.Interface, table4, table6 string) string {
	var wrong []string
	for _, in := range list {
		v4, v6 := in.Gateways()
		if v4.IsValid() && !slices.ContainsFunc(gateways4(table4), func(ip net.IP) bool { return ip.Equal(v4.AsSlice()) }) {
			wrong = append(wrong, fmt.Sprintf("there is no default route by %s, the gateway of %s", v4, in.Name))
		}
		if v6.IsValid() && !slices.Contains(gateways6(table6), v6) {
			wrong = append(wrong, fmt.Sprintf("there is no default route by %s, the gateway of %s", v6, in.Name))
		}
	}
	return strings.Join(wrong, "; ")
}

// gateways6 returns the IPv6 gateways of a routing table as
// /proc/net/ipv6_route has it.
func gateways6(table string) []netip.Addr {
	var list []netip.Addr
	for _, line := range strings.Split(table, "\n") {
		f := strings.Fields(line)
		if len(f) < 10 || f[1] != "00" || strings.Trim(f[0], "0") != "" {
			continue
		}
		if b, err := hex.DecodeString(f[4]); err == nil {
			if a, ok := netip.AddrFromSlice(b); ok && !a.IsUnspecified() {
				list = append(list, a)
			}
		}
	}
	return list
}

// askedProblem returns what of a config's network did not come to be.
func askedProblem(n nodeconfig.Network) string {
	have, err := links()
	if err != nil {
		return err.Error()
	}
	if text := interfacesProblem(n.Interfaces, have); text != "" {
		return text
	}
	return gatewaysProblem(n.Interfaces, sysfs.Read("/proc/net/route"), sysfs.Read("/proc/net/ipv6_route"))
}
