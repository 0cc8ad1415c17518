package checks

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/sysfs"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

func networkCheck(s state) node.Check {
	return result("network", "there is an interface with a carrier and an address", networkProblem(s.cfg.Network.Interfaces))
}

// networkProblem says what is wrong with this node's own end of the network;
// "" where an interface has a carrier and an address. That is one of the
// hardware's own, or one that the config asks for, such as a VLAN.
func networkProblem(asked []nodeconfig.Interface) string {
	list, err := net.Interfaces()
	if err != nil {
		return err.Error()
	}
	problem := "there is no network interface but lo; is its driver in the image?"
	for _, i := range list {
		wanted := slices.ContainsFunc(asked, func(in nodeconfig.Interface) bool { return in.Name == i.Name && !in.Dummy })
		if i.Flags&net.FlagLoopback != 0 || !isHardware(i.Name) && !wanted {
			continue
		}
		addresses, err := i.Addrs()
		switch {
		case err != nil:
			problem = err.Error()
		case i.Flags&net.FlagRunning == 0:
			problem = i.Name + " has no carrier; is the cable in, is the network in reach?"
		case !hasAddress(addresses):
			problem = i.Name + " has no address; does a DHCP server answer?"
		default:
			return ""
		}
	}
	return problem
}

// isHardware reports whether an interface is one of a machine's own, and not a
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
	gateway := gatewayOf(sysfs.Read("/proc/net/route"))
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

// answersARP reports whether a neighbour answers for its address.
func answersARP(ip net.IP, limit time.Duration) bool {
	// Any packet has the kernel ask; the discard port wants no answer.
	if c, err := net.Dial("udp4", fmt.Sprintf("%s:9", ip)); err == nil {
		c.Write([]byte{0})
		c.Close()
	}
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if inARP(sysfs.Read("/proc/net/arp"), ip.String()) {
			return true
		}
		if time.Since(start) > limit {
			return false
		}
	}
}

// inARP reports whether a table as /proc/net/arp has it holds an answer: flag 2
// is ATF_COM (linux/if_arp.h).
func inARP(table, ip string) bool {
	for _, line := range strings.Split(table, "\n") {
		if f := strings.Fields(line); len(f) >= 4 && f[0] == ip && f[2] != "0x0" {
			return true
		}
	}
	return false
}

func routeProblem() string {
	for _, line := range strings.Split(sysfs.Read("/proc/net/route"), "\n") {
		if f := strings.Fields(line); len(f) > 2 && f[1] == "00000000" {
			return ""
		}
	}
	for _, line := range strings.Split(sysfs.Read("/proc/net/ipv6_route"), "\n") {
		if f := strings.Fields(line); len(f) > 9 && strings.Trim(f[0], "0") == "" && f[1] == "00" && f[9] != "lo" {
			return ""
		}
	}
	return "there is no default route, and flannel wants one; is the network up?"
}
