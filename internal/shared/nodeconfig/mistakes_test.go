package nodeconfig

import (
	"strings"
	"testing"
)

// mistake is a text and the error that reading it gives, or how that begins.
type mistake struct{ text, want string }

var mistakes = []mistake{
	{"hostname: Attic", `n.yaml:1: hostname: "Attic": want lower-case letters, digits and dashes, at most 63`},
	{"hostname: -a", `n.yaml:1: hostname: "-a": want lower-case letters, digits and dashes, at most 63`},
	{"hostnam: attic", "n.yaml:1: hostnam: there is no such field; is it misspelt or indented wrongly?"},
	{"hostname: [a]", "n.yaml:1: this is a list; want text"},
	{"seed: abc", "n.yaml:1: seed: want 64 hexadecimal digits; leave it out, and pikelet or the node makes one"},
	{"console: yes please", `n.yaml:1: console: "yes please": want root, or nothing for a console without a way in`},
	{"users:\n- name: Anna\n  keys: [" + key + "]",
		`n.yaml:2: users[0].name: "Anna": want lower-case letters, digits, - and _, at most 32`},
	{"users:\n- name: sshd\n  keys: [" + key + "]", `n.yaml:2: users[0].name: "sshd" belongs to the system`},
	{"users:\n- name: anna", "n.yaml:2: users[0].keys: missing; there are no passwords, so want a key for anna"},
	{"users:\n- name: anna\n  password: x\n  keys: [" + key + "]",
		"n.yaml:3: password: there is no such field; is it misspelt or indented wrongly?"},
	{"users:\n- {name: a, keys: [" + key + "]}\n- {name: a, keys: [" + key + "]}", `n.yaml:3: users[1].name: duplicate user "a"`},
	{"users:\n- name: a\n  keys:\n  - hello",
		`n.yaml:4: users[0].keys[0]: "hello": want a public key such as ssh-ed25519 AAAA... you@desk`},
	{"users:\n- name: a\n  keys:\n  - ssh-ed25519 AAAAC3NzaC1",
		"n.yaml:4: users[0].keys[0]: the key after ssh-ed25519 is damaged or cut off; copy the whole line from the file that ends in .pub"},
	{"users:\n- name: a\n  keys:\n  - '-----BEGIN OPENSSH PRIVATE KEY-----'",
		"n.yaml:4: users[0].keys[0]: this is a private key; want the public one, from the file that ends in .pub"},
	{"network:\n  interfaces: [{name: ETH0}]", `n.yaml:2: network.interfaces[0].name: "ETH0": want the kernel's name, such as eth0`},
	{"network:\n  interfaces: [{name: a}, {name: a}]", "n.yaml:2: network.interfaces[1].name: a: duplicate interface"},
	{"network:\n  interfaces: [{name: a, addresses: [10.0.0.1]}]",
		`n.yaml:2: network.interfaces[0].addresses[0]: "10.0.0.1": want an address and the length of its network, such as 192.168.1.10/24`},
	{"network:\n  interfaces: [{name: a, addresses: [10.0.0.0/24]}]",
		"n.yaml:2: network.interfaces[0].addresses[0]: 10.0.0.0/24 is the network itself; want an address in it"},
	{"network:\n  interfaces: [{name: a, dhcp: false}]",
		"n.yaml:2: network.interfaces: none of them would have an address: want dhcp, slaac or addresses for one"},
	{"network:\n  interfaces: [{name: a, gateway: 10.0.0.1}]",
		"n.yaml:2: network.interfaces[0].gateway: DHCP says what the gateway is; a gateway goes with addresses"},
	{"network:\n  interfaces: [{name: a, addresses: [10.0.0.2/24], gateway: 10.0.1.1}]",
		"n.yaml:2: network.interfaces[0].gateway: 10.0.1.1 is in none of the networks of a"},
	{"network:\n  interfaces:\n  - {name: a, addresses: [10.0.0.2/24], gateway: 10.0.0.1}\n  - {name: b, addresses: [10.1.0.2/24], " +
		"gateway: 10.1.0.1}",
		"n.yaml:4: network.interfaces[1].gateway: a has a gateway already; only one can be the way to everything else"},
	{"network:\n  interfaces: [{name: a, mtu: 100}]", "n.yaml:2: network.interfaces[0].mtu: 100: want 576 to 9216"},
	{"network: {dns: [dns.example]}", `n.yaml:1: network.dns[0]: "dns.example": want the address of a name server`},
	{"network: {search: ['a b']}", `n.yaml:1: network.search[0]: "a b": want a domain`},
	{"network: {wifi: {networks: [{ssid: x}]}}",
		"n.yaml:1: network.wifi.country: missing; where the node stands decides which channels it may use: two letters, such as DE"},
	{"network: {wifi: {country: Germany}}", `n.yaml:1: network.wifi.country: "Germany": want two capital letters, such as DE`},
	{"network: {wifi: {country: DE, networks: [{ssid: x, password: short}]}}",
		"n.yaml:1: network.wifi.networks[0].password: it has 5 characters; want 8 to 63, or a key of 64 hexadecimal digits"},
	{"network: {wifi: {country: DE, networks: [{ssid: x, eap: {method: tls, identity: a, password: b, ca: /etc/ca.pem}}]}}",
		`n.yaml:1: network.wifi.networks[0].eap.method: "tls": want peap or ttls`},
	{"network: {wifi: {country: DE, networks: [{ssid: x, eap: {identity: a, password: b}}]}}",
		`n.yaml:1: network.wifi.networks[0].eap.ca: "": want the file with the certificate of the authority, such as /etc/ssl/wifi.pem`},
	{"network: {wifi: {country: DE, networks: [{ssid: x, eap: {identity: a, ca: /etc/ca.pem}}]}}",
		"n.yaml:1: network.wifi.networks[0].eap.password: missing; want the password of the account"},
	{"network: {wifi: {country: DE, networks: [{ssid: x, password: 12345678, eap: {identity: a, password: b, ca: /etc/ca.pem}}]}}",
		"n.yaml:1: network.wifi.networks[0].password: the network has eap; the password of the account is eap.password"},
	{`network: {wifi: {country: DE, networks: [{ssid: x, eap: {identity: a, password: "S3cret\nx", ca: /etc/ca.pem}}]}}`,
		"n.yaml:1: network.wifi.networks[0].eap.password: want at most 200 bytes, without line ends or other control characters"},
	{"network: {interfaces: [{name: dummy0, dummy: true, addresses: [203.0.113.254/31]}]}",
		"n.yaml:1: network.interfaces: none of them would have an address: want dhcp, slaac or addresses for one"},
	{"network: {interfaces: [{name: eth0}, {name: dummy0, dummy: true, dhcp: true}]}",
		"n.yaml:1: network.interfaces[1].dummy: nothing answers on a dummy; want addresses"},
	{"network: {interfaces: [{name: eth0}, {name: d.5, dummy: true}]}",
		"n.yaml:1: network.interfaces[1].dummy: a dummy is neither VLAN nor bond nor bridge"},
	{"network: {interfaces: [{name: eth0}, {name: lo, dummy: true, addresses: [10.0.0.1/32]}]}",
		"n.yaml:1: network.interfaces[1].name: lo is the node itself, and takes addresses only"},
	{"time: {zone: 'Berlin, Germany'}", `n.yaml:1: time.zone: "Berlin, Germany": want a zone such as Europe/Berlin`},
	{"time: {servers: ['http://x']}", `n.yaml:1: time.servers[0]: "http://x": want a name or an address`},
	{"time: {wait: soon}", `n.yaml:1: "soon": invalid duration; want one such as 60s or 10m`},
	{"k3s: {role: master}", `n.yaml:1: k3s.role: "master": want server or agent`},
	{"k3s: {token: x}", "n.yaml:1: k3s.role: missing; want server or agent"},
	{"k3s: {role: agent, token: x}", "n.yaml:1: k3s.server: missing; an agent joins a server, such as https://10.0.0.10:6443"},
	{"k3s: {role: agent, server: 'https://a:6443'}", "n.yaml:1: k3s.token: missing; an agent needs the token of the cluster it joins"},
	{"k3s: {role: server, server: 'http://a:6443', token: x}",
		`n.yaml:1: k3s.server: "http://a:6443": want an address such as https://10.0.0.10:6443`},
	{"k3s: {role: server, server: 'https://a:6443'}", "n.yaml:1: k3s.token: missing; a server that joins others needs their token"},
	{"k3s: {role: server, token: 'a b'}", "n.yaml:1: k3s.token: a token has no blanks or line ends"},
	{"k3s: {role: server, labels: {'a b': c}}",
		`n.yaml:1: k3s.labels.a b: "a b" is not a valid key: ` +
			"want NAME or DOMAIN/NAME, the name with letters, digits, -, _ and ., at most 63"},
	{"k3s: {role: server, taints: [slow]}",
		`n.yaml:1: k3s.taints[0]: "slow": want KEY=VALUE:NoSchedule, :PreferNoSchedule or :NoExecute`},
	{"k3s: {role: server, options: {node-name: x}}", "n.yaml:1: k3s.options.node-name: hostname says that"},
	{"k3s: {role: server, options: {--disable: x}}",
		"n.yaml:1: k3s.options.--disable: want an option as k3s spells it, without dashes in front"},
	{"k3s: {role: server, options: {disable: {a: b}}}", "n.yaml:1: k3s.options.disable: want text, a number, true, false or a list"},
	{"registries: {mirrors: {a: {endpoint: [mirror]}}}",
		`n.yaml:1: registries.mirrors.a.endpoint[0]: "mirror": want an address such as https://mirror.lan:5000`},
	{"registries: {mirrors: {a: {rewrite: {'(': x}}}}",
		"n.yaml:1: registries.mirrors.a.rewrite: \"(\": invalid regular expression: error parsing regexp: missing closing ): `(`"},
	{"registries: {configs: {a: {auth: {password: x}}}}",
		"n.yaml:1: registries.configs.a.auth.username: missing; a password needs one"},
	{"registries: {configs: {'https://a': {}}}", "n.yaml:1: registries.configs.https://a: want a registry's name without https://"},
	{"iscsi: {initiator: attic}", `n.yaml:1: iscsi.initiator: "attic": want a name such as iqn.2026-01.lan.nas:attic`},
	{"iscsi: {targets: [{name: 'iqn.2026-01.lan:a'}]}",
		"n.yaml:1: iscsi.targets[0].portals: none; want the address of the target, such as 10.0.0.5:3260"},
	{"iscsi: {targets: [{name: 'iqn.2026-01.lan:a', portals: [nas.lan]}]}",
		`n.yaml:1: iscsi.targets[0].portals[0]: "nas.lan": want an address such as 10.0.0.5 or 10.0.0.5:3260`},
	{"iscsi:\n  targets:\n  - {name: 'iqn.2026-01.lan:a', portals: [10.0.0.5], chap: {user: u, password: short}}",
		"n.yaml:3: iscsi.targets[0].chap.password: it has 5 characters; want 12 or more (most targets: at most 16), without blanks"},
	{"iscsi: {discovery: [{portal: 10.0.0.5, chap: {user: u}}]}",
		"n.yaml:1: iscsi.discovery[0].chap.password: missing; a user needs one"},
	{"iscsi: {discovery: [{portal: 10.0.0.5, chap: {user: u, password: twelve-chars, mutual-user: n, mutual-password: twelve-chars}}]}",
		"n.yaml:1: iscsi.discovery[0].chap.mutual-password: it is the password of the other direction; targets refuse that"},
	{"volume: {on: floppy}", `n.yaml:1: volume.on: "floppy": want state, memory, disk or iscsi`},
	{"volume: {on: disk}",
		`n.yaml:1: volume.device: "": want a disk such as /dev/nvme0n1, its name in /dev/disk/by-id, or LABEL=... or UUID=... of its ext4`},
	{"volume: {on: disk, device: /dev/disk/by-id/dm-name-x}",
		`n.yaml:1: volume.device: "/dev/disk/by-id/dm-name-x": unsupported name; ` +
			"want one that begins with ata-, mmc-, nvme-, scsi-, usb- or wwn-"},
	{"volume: {on: disk, device: /dev/disk/by-id/usb-a b}", `n.yaml:1: volume.device: "/dev/disk/by-id/usb-a b": unsupported name`},
	{"volume: {on: disk, device: /dev/disk/by-id/usb-a/../x}",
		`n.yaml:1: volume.device: "/dev/disk/by-id/usb-a/../x": unsupported name`},
	{"volume: {on: disk, device: /dev/disk/by-path/x}",
		`n.yaml:1: volume.device: "/dev/disk/by-path/x": nodes have no links there; ` +
			"want a disk such as /dev/nvme0n1, its name in /dev/disk/by-id"},
	{"volume: {device: /dev/sda}", "n.yaml:1: volume.device: goes with on: disk, and this volume is on state"},
	{"volume: {on: iscsi}", "n.yaml:1: volume.target: missing; iscsi.targets has 0, so name the one that holds the volume"},
	{"volume: {on: memory, size: big}", `n.yaml:1: volume.size: "big": invalid size; want one such as 512MiB or 1GiB`},
	{"volume: {on: state, format: blank}", "n.yaml:1: volume.format: a volume on state needs no formatting"},
	{"volume: {encryption: {by: board}}",
		"n.yaml:1: volume.encryption: goes with on: disk or on: iscsi, and this volume is on state"},
	{"volume: {on: disk, device: /dev/sda, encryption: {}}", "n.yaml:1: volume.encryption.key: missing; want 64 hexadecimal digits"},
	{"volume: {on: disk, device: /dev/sda, encryption: {key: hunter2}}",
		"n.yaml:1: volume.encryption.key: want 64 lower-case hexadecimal digits, as openssl rand -hex 32 makes them"},
	{"volume: {on: disk, device: /dev/sda, encryption: {by: board, key: '" + strings.Repeat("1", 64) + "'}}",
		"n.yaml:1: volume.encryption.key: goes with by: key, and this volume is opened by: board"},
	{"volume: {on: disk, device: /dev/sda, encryption: {by: magic}}",
		`n.yaml:1: volume.encryption.by: "magic": want key, board or passphrase`},
	{"volume: {on: disk, device: /dev/sda, format: always}", `n.yaml:1: volume.format: "always": want blank, or nothing`},
	{"files: [{path: /usr/bin/x}]",
		`n.yaml:1: files[0].path: "/usr/bin/x": want a file below /etc, /var, /root or /home; the rest belongs to the image`},
	{"files: [{path: /etc/../usr/x}]",
		`n.yaml:1: files[0].path: "/etc/../usr/x": want a file below /etc, /var, /root or /home; the rest belongs to the image`},
	{"files: [{path: /etc/x, mode: 'rw'}]", `n.yaml:1: files[0].mode: "rw": want permissions such as "0644"`},
	{"files: [{path: /etc/x, secret: true, mode: '0644'}]", "n.yaml:1: files[0].mode: 0644 lets others read what is secret"},
	{"files: [{path: /etc/x, owner: eve}]", `n.yaml:1: files[0].owner: "eve": not found in users`},
	{"logs: printer", `n.yaml:1: logs: "printer": want memory or state`},
	{"iscsi: {discovery: [{portal: 10.0.0.5, chap: hush-hush}]}", "n.yaml:1: this is text; want a map of fields"},
	{"users: anna", "n.yaml:1: this is text; want a list"},
	{"volume: {lun: x}", "n.yaml:1: this is text; want a number"},
	{"sysctls: {swappiness: '1'}", "n.yaml:1: sysctls.swappiness: want a name such as net.ipv4.ip_forward"},
	{"modules: ['rm -rf']", `n.yaml:1: modules[0]: "rm -rf": want the name of a kernel module`},
	{`network: {dns: ["fe80::1%x\nnameserver 6.6.6.6"]}`,
		`n.yaml:1: network.dns[0]: "fe80::1%x\nnameserver 6.6.6.6": want the address of a name server`},
	{`time: {servers: ["fe80::1%x\nallow all"]}`, `n.yaml:1: time.servers[0]: "fe80::1%x\nallow all": want a name or an address`},
	{"network: {interfaces: [{name: a, addresses: ['fe80::2/64'], gateway: 'fe80::1%x y'}]}",
		`n.yaml:1: network.interfaces[0].gateway: "fe80::1%x y": want an address`},
	{"iscsi: {targets: [{name: 'iqn.2026-01.lan:a', portals: ['fe80::1%../../x']}]}",
		`n.yaml:1: iscsi.targets[0].portals[0]: "fe80::1%../../x": want an address such as 10.0.0.5 or 10.0.0.5:3260`},
	{"iscsi: {targets: [{name: 'iqn.2026-01.lan:a', portals: ['[fe80::1%../../x]:3260']}]}",
		`n.yaml:1: iscsi.targets[0].portals[0]: "[fe80::1%../../x]:3260": want an address such as 10.0.0.5 or 10.0.0.5:3260`},
	{`iscsi: {discovery: [{portal: 10.0.0.5, chap: {user: "a\nnode.startup = manual", password: 0123456789abcdef}}]}`,
		"n.yaml:1: iscsi.discovery[0].chap.user: want a name of at most 255 bytes, without blanks or line ends"},
	{`iscsi: {discovery: [{portal: 10.0.0.5, chap: {user: a, password: "0123456789abcdef\rx"}}]}`,
		"n.yaml:1: iscsi.discovery[0].chap.password: it has 18 characters; want 12 or more (most targets: at most 16), without blanks"},
	{"users:\n- {name: nopass, admin: true, keys: [" + key + "]}",
		`n.yaml:2: users[0].name: "nopass" is a word of doas.conf, where admins stand; an admin needs another name`},
	{"files: [{path: /var/lib/pikelet/state/node/seed}]",
		`n.yaml:1: files[0].path: "/var/lib/pikelet/state/node/seed": what is below /var/lib/pikelet/ belongs to Pikelet`},
	{"files: [{path: /var/lib/rancher}]",
		`n.yaml:1: files[0].path: "/var/lib/rancher" is a directory of the system; want a file in it`},
	{"files: [{path: /var/lib}]", `n.yaml:1: files[0].path: "/var/lib" is a directory of the system; want a file in it`},
	{"files: [{path: /etc/x, secret: true, mode: '0000'}]", `n.yaml:1: files[0].mode: "0000": want permissions such as "0644"`},
	{"k3s: {token: *S3cret}",
		"n.yaml:1: a value begins with *, which makes it an alias of something that is not there; put it in quotes"},
	{"\nk3s:\n  role: server\n  token: !S3cret",
		"n.yaml:4: a value begins with !, which makes it a tag that means nothing here; put it in quotes"},
	{"hostname: a\n---\nhostname: b", "n.yaml: there is more than one YAML document; want one a file"},
	{"hostname: 'a\n", "n.yaml:2: found unexpected end of stream"},
}

// TestMistakes: every mistake is named with its line and field, and says what
// to do.
func TestMistakes(t *testing.T) {
	for _, m := range mistakes {
		if _, err := Parse("n.yaml", []byte(m.text)); err == nil || !strings.HasPrefix(err.Error(), m.want) {
			t.Errorf("%s\n got %v\nwant %s", m.text, err, m.want)
		}
	}
	// All at once, in the order of the lines.
	_, err := Parse("n.yaml", []byte("hostname: A\nconsole: x\nvolume: {on: y}\n"))
	if err == nil || strings.Count(err.Error(), "\n") != 2 || !strings.HasPrefix(err.Error(), "n.yaml:1: hostname") {
		t.Errorf("three mistakes: %v", err)
	}
}

// TestInventoryMistakes: mistakes of several nodes together.
func TestInventoryMistakes(t *testing.T) {
	target := "iscsi: {targets: [{name: 'iqn.2026-01.lan:a', portals: [10.0.0.5]}]}"
	for _, m := range []mistake{
		{"nodes: []", "i.yaml:1: nodes: none"},
		{"nodes: [{console: root}]", "i.yaml:1: nodes[0]: nothing says which machine this is; give it a hostname, serial, mac or board"},
		{"nodes: [{hostname: a, serial: XYZ}]",
			`i.yaml:1: nodes[0].serial: "XYZ": want 8 or 16 hexadecimal digits in lower case, as in /proc/cpuinfo`},
		{"nodes: [{hostname: a, mac: '1'}]", `i.yaml:1: nodes[0].mac: "1": want an address such as dc:a6:32:01:02:03`},
		{"nodes: [{board: pdp11}]", `i.yaml:1: nodes[0].board: "pdp11": want one of rpi4, vm`},
		{"nodes: [{board: rpi4, hostname: a}]",
			"i.yaml:1: nodes[0].hostname: every rpi4 would be called a; match by serial or mac, or leave the name out"},
		{"nodes:\n- {hostname: a}\n- {hostname: a}", "i.yaml:3: nodes[1].hostname: nodes[0] has the name a already"},
		{"nodes:\n- {hostname: a, serial: '12345678'}\n- {hostname: b, serial: '1000000012345678'}",
			"i.yaml:3: nodes[1].serial: nodes[0] has the serial 12345678 already"},
		{"cluster-secret: short\nnodes: [{hostname: a}]",
			"i.yaml:1: cluster-secret: it has 5 characters; want at least 32 random ones, as openssl rand -hex 32 prints"},
		{"defaults: {hostname: a}\nnodes: [{hostname: b}]", "i.yaml:1: defaults.hostname: a name is one node's own"},
		{"defaults:\n  " + target + "\n  volume: {on: iscsi}\nnodes:\n- {hostname: a}\n- {hostname: b}",
			"i.yaml:6: nodes[1].volume: nodes[0] has the volume iqn.2026-01.lan:a, LUN 0: a filesystem has one owner, " +
				"and two would destroy it already"},
		{"defaults: {" + target + ", volume: {on: iscsi}}\nnodes: [{board: rpi4}]",
			"i.yaml:2: nodes[0].volume: every rpi4 would take this LUN, and two would destroy it; match by serial or mac"},
		{"nodes:\n- {hostname: a, network: {interfaces: [{name: eth0, addresses: [10.0.0.1/8]}]}}\n- {hostname: b, " +
			"network: {interfaces: [{name: eth0, addresses: [10.0.0.1/8]}]}}",
			"i.yaml:3: nodes[1].network: nodes[0] has the address 10.0.0.1 already"},
		{"defaults:\n  k3s: {role: agent, token: x}\nnodes:\n- {hostname: a}",
			"i.yaml:2: k3s.server: missing; an agent joins a server, such as https://10.0.0.10:6443"},
		{"nodes:\n- {hostname: a, usrs: []}", "i.yaml:2: usrs: there is no such field; is it misspelt or indented wrongly?"},
	} {
		if _, err := Load("i.yaml", []byte(m.text), []string{"rpi4", "vm"}, false); err == nil || err.Error() != m.want {
			t.Errorf("%s\n got %v\nwant %s", m.text, err, m.want)
		}
	}
}

// TestClusterInit: etcd of several nodes does not live in memory, and only one
// node begins a cluster (k3s-io/k3s#13623).
func TestClusterInit(t *testing.T) {
	for _, m := range []mistake{
		{"nodes: [{hostname: a, volume: {on: memory}, k3s: {role: server, options: {cluster-init: true}}}]",
			"i.yaml:1: volume.on: memory: "},
		{"defaults: {k3s: {role: server, options: {cluster-init: true}}}\nnodes:\n- {hostname: a}\n- {hostname: b}",
			"i.yaml:4: nodes[1].k3s.options.cluster-init: nodes[0] has the cluster begun by cluster-init"},
		{"nodes: [{hostname: a, k3s: {role: server, token: t, server: 'https://10.0.0.1:6443', options: {cluster-init: true}}}]", ""},
		{"nodes: [{hostname: a, k3s: {role: server, options: {cluster-init: yes}}}, {hostname: b, k3s: {role: server, " +
			"options: {cluster-init: no}}}]",
			""},
	} {
		_, err := Load("i.yaml", []byte(m.text), nil, false)
		if m.want == "" && err != nil || m.want != "" && (err == nil || !strings.Contains(err.Error(), m.want)) {
			t.Errorf("%s\n got %v\nwant %s", m.text, err, m.want)
		}
	}
}
