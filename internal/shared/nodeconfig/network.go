package nodeconfig

import (
	"net/netip"
	"strconv"
	"strings"
)

// Network says how the node reaches others.
type Network struct {
	// Interfaces are set up in this order. Default: DHCP on eth0.
	Interfaces []Interface `yaml:"interfaces,omitempty"`
	// DNS are the addresses of name servers; they replace what DHCP says.
	DNS []string `yaml:"dns,omitempty"`
	// Search are the domains names are looked up in; they replace what DHCP says.
	Search []string `yaml:"search,omitempty"`
	// Wifi are the wireless networks. The image needs the wifi overlay.
	Wifi Wifi `yaml:"wifi,omitempty"`
}

// Interface is one way to the network.
type Interface struct {
	// Name is the kernel's name for it. Required: such as eth0 or wlan0; eth0.20
	// is VLAN 20 on eth0; lo takes more addresses.
	Name string `yaml:"name" jsonschema:"required,pattern=^[a-z][a-zA-Z0-9._-]{0\\,14}$"`
	// VLAN makes the interface a VLAN with this number, 1 to 4094.
	VLAN int `yaml:"vlan,omitempty" jsonschema:"minimum=1,maximum=4094"`
	// Parent is the interface that the VLAN is on; it needs no entry of its own.
	// Default: what stands before the dot of name.
	Parent string `yaml:"parent,omitempty"`
	// Bond makes the interface of several others, of which one may fail.
	Bond Bond `yaml:"bond,omitempty"`
	// Bridge makes the interface a bridge between others.
	Bridge Bridge `yaml:"bridge,omitempty"`
	// Dummy makes an interface that leads nowhere, for an address or a default
	// route where there is no router. Default: false.
	Dummy bool `yaml:"dummy,omitempty"`
	// DHCP asks a server for the IPv4 address. Default: true where there are
	// neither addresses nor slaac, and for no dummy. Without all three the
	// interface is up, and has no address.
	DHCP *bool `yaml:"dhcp,omitempty"`
	// SLAAC takes an IPv6 address and the gateway from the router's
	// advertisements, also where the node forwards packets, as k3s has it do.
	// Default: the kernel takes them as long as it forwards none.
	SLAAC bool `yaml:"slaac,omitempty"`
	// Addresses are the interface's own, as 192.168.1.10/24.
	Addresses []string `yaml:"addresses,omitempty"`
	// Gateway is where everything else is reached, by IPv4 or IPv6. Only one
	// interface has one of each family.
	Gateway string `yaml:"gateway,omitempty"`
	// Gateway6 is the one for IPv6, beside one for IPv4, such as fe80::1.
	Gateway6 string `yaml:"gateway6,omitempty"`
	// Routes say what else is reached through the interface.
	Routes []Route `yaml:"routes,omitempty"`
	// MTU is the largest packet in bytes. Default: the hardware's.
	MTU int `yaml:"mtu,omitempty" jsonschema:"minimum=576,maximum=9216"`
}

// Bond is an interface made of several others.
type Bond struct {
	// Ports are the interfaces it is made of. Required.
	Ports []string `yaml:"ports,omitempty"`
	// Mode is how they share the work. Default: active-backup, which needs
	// nothing of the switch.
	Mode string `yaml:"mode,omitempty" jsonschema:"enum=balance-rr,enum=active-backup,enum=balance-xor,enum=broadcast,enum=802.3ad,enum=balance-tlb,enum=balance-alb"`
}

// Bridge is an interface that joins several others.
type Bridge struct {
	// Ports are the interfaces it joins. Required.
	Ports []string `yaml:"ports,omitempty"`
}

// Route says what is reached through an interface.
type Route struct {
	// To is the network, as 10.0.0.0/8; 0.0.0.0/0 is everything. Required.
	To string `yaml:"to" jsonschema:"required"`
	// Via is the router. Default: none; the network is on the link.
	Via string `yaml:"via,omitempty"`
	// Metric is the order of routes to the same network, the smallest first.
	// Default: the kernel's.
	Metric int `yaml:"metric,omitempty" jsonschema:"minimum=1,maximum=65535"`
}

// Ports are the interfaces that one is made of or joins.
func (i Interface) Ports() []string {
	return append(append([]string(nil), i.Bond.Ports...), i.Bridge.Ports...)
}

// VLANOn returns the number of the VLAN that the interface is, and what it is
// on; 0 where it is none.
func (i Interface) VLANOn() (number int, parent string) {
	parent, text, dotted := strings.Cut(i.Name, ".")
	number = i.VLAN
	if number == 0 && dotted {
		number, _ = strconv.Atoi(text)
	}
	if i.Parent != "" {
		parent = i.Parent
	} else if !dotted {
		parent = ""
	}
	return number, parent
}

// UsesDHCP reports whether the interface asks a server for its address.
func (i Interface) UsesDHCP() bool {
	if i.DHCP == nil {
		return len(i.Addresses) == 0 && !i.SLAAC && !i.Dummy && i.Name != Loopback
	}
	return *i.DHCP
}

// Loopback is the name of the interface that only the node itself reaches.
const Loopback = "lo"

// Gateways returns the gateways of the interface for IPv4 and IPv6, each the
// zero value where it has none.
func (i Interface) Gateways() (v4, v6 netip.Addr) {
	for _, text := range []string{i.Gateway, i.Gateway6} {
		if a, err := netip.ParseAddr(text); err == nil && a.Is4() {
			v4 = a
		} else if err == nil {
			v6 = a
		}
	}
	return v4, v6
}

// Wifi are wireless networks.
type Wifi struct {
	// Country is where the node stands, as two letters: the law there says
	// which channels may be used. Required with networks.
	Country string `yaml:"country,omitempty" jsonschema:"pattern=^[A-Z]{2}$"`
	// Networks are joined as they are found, the first ones rather.
	Networks []WifiNetwork `yaml:"networks,omitempty"`
}

// WifiNetwork is one wireless network.
type WifiNetwork struct {
	// SSID is the network's name. Required.
	SSID string `yaml:"ssid" jsonschema:"required"`
	// Password is 8 to 63 characters, or the key made of it: 64 hexadecimal
	// digits, as wpa_passphrase prints. Without one, and without eap, the network
	// is open. Secret.
	Password string `yaml:"password,omitempty"`
	// EAP is an account, where the network asks for one (WPA-Enterprise).
	EAP EAP `yaml:"eap,omitempty"`
	// Hidden networks do not say their names. Default: false.
	Hidden bool `yaml:"hidden,omitempty"`
}

// EAP is an account for networks with WPA-Enterprise.
type EAP struct {
	// Method is peap, with MSCHAPv2 inside, or ttls, with PAP. Default: peap.
	Method string `yaml:"method,omitempty" jsonschema:"enum=peap,enum=ttls"`
	// Identity is the name of the account. Required.
	Identity string `yaml:"identity,omitempty"`
	// Anonymous is the name that is sent before the server has proved who it is,
	// such as anonymous@example.org. Default: identity.
	Anonymous string `yaml:"anonymous,omitempty"`
	// Password goes with identity. Secret. Required.
	Password string `yaml:"password,omitempty"`
	// CA is the file with the certificate of the authority that the network's
	// server is checked against; it can come from files. Without it any access
	// point would get the password. Required.
	CA string `yaml:"ca,omitempty"`
	// Domain is what the name in the server's certificate must end in, such as
	// radius.example.org. Default: any name that the authority signed.
	Domain string `yaml:"domain,omitempty"`
}

// EAP methods.
const (
	MethodPEAP = "peap"
	MethodTTLS = "ttls"
)
