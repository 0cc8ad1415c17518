package agent

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// networkProblem says what is wrong with this node's own end of the network;
// "" where an interface has a carrier and an address. That is one of the
// hardware's own, or one that the config asks for, such as a VLAN.
func networkProblem(asked []nodeconfig.Interface) string {
	list, err := net.Interfaces()
	if err != nil {
		return err.Error()
	}
	said := "there is no network interface but lo; is its driver in the image?"
	for _, i := range list {
		wanted := slices.ContainsFunc(asked, func(in nodeconfig.Interface) bool { return in.Name == i.Name && !in.Dummy })
		if i.Flags&net.FlagLoopback != 0 || !isHardware(i.Name) && !wanted {
			continue
		}
		addresses, err := i.Addrs()
		switch {
		case err != nil:
			said = err.Error()
		case i.Flags&net.FlagRunning == 0:
			said = i.Name + " has no carrier; is the cable in, is the network in reach?"
		case !hasAddress(addresses):
			said = i.Name + " has no address; does a DHCP server answer?"
		default:
			return ""
		}
	}
	return said
}

// isHardware says whether an interface is one of a machine's own, and not a
// bridge or a pod's.
func isHardware(name string) bool {
	_, err := os.Stat(filepath.Join("/sys/class/net", name, "device"))
	return err == nil
}

func hasAddress(list []net.Addr) bool {
	for _, a := range list {
		if ip, _, err := net.ParseCIDR(a.String()); err == nil && ip.IsGlobalUnicast() {
			return true
		}
	}
	return false
}

// networkFine says that carrier, address and gateway are well: what does not
// answer then is beyond them.
func networkFine(asked []nodeconfig.Interface) bool {
	if networkProblem(asked) != "" {
		return false
	}
	gateway := gatewayOf(readTrimmed("/proc/net/route"))
	return gateway == nil || answersARP(gateway, time.Second)
}

// gatewayOf returns the first IPv4 gateway of a routing table as
// /proc/net/route has it; nil where there is none.
func gatewayOf(table string) net.IP {
	if list := gateways4(table); len(list) > 0 {
		return list[0]
	}
	return nil
}

func gateways4(table string) []net.IP {
	var list []net.IP
	for _, line := range strings.Split(table, "\n") {
		f := strings.Fields(line)
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		b, err := hex.DecodeString(f[2])
		if err != nil || len(b) != 4 || binary.LittleEndian.Uint32(b) == 0 {
			continue
		}
		list = append(list, net.IPv4(b[3], b[2], b[1], b[0])) // the kernel prints the number of a little-endian machine
	}
	return list
}

// answersARP says whether a neighbour answers for its address.
func answersARP(ip net.IP, limit time.Duration) bool {
	// Any packet has the kernel ask; the discard port wants no answer.
	if c, err := net.Dial("udp4", fmt.Sprintf("%s:9", ip)); err == nil {
		c.Write([]byte{0})
		c.Close()
	}
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if inARP(readTrimmed("/proc/net/arp"), ip.String()) {
			return true
		}
		if time.Since(start) > limit {
			return false
		}
	}
}

// inARP says whether a table as /proc/net/arp has it holds an answer: flag 2
// is ATF_COM (linux/if_arp.h).
func inARP(table, ip string) bool {
	for _, line := range strings.Split(table, "\n") {
		if f := strings.Fields(line); len(f) >= 4 && f[0] == ip && f[2] != "0x0" {
			return true
		}
	}
	return false
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
	return gatewaysProblem(n.Interfaces, readTrimmed("/proc/net/route"), readTrimmed("/proc/net/ipv6_route"))
}
