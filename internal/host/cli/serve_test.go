package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestServeRefuses: what a boot server can't start with is said, with what to do.
func TestServeRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"nodes.yaml": "nodes: [{serial: '00000001'}]\n", "one.yaml": "hostname: attic\n",
		"token": "short\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for want, args := range map[string]string{
		`required flag(s) "inventory" not set`:                                    "--interface lo --proxy",
		"pikelet node init writes an inventory":                                   "--interface lo --proxy --inventory nowhere.yaml",
		"want an inventory":                                                       "--interface lo --proxy --inventory one.yaml",
		`required flag(s) "interface" not set`:                                    "--proxy --inventory nodes.yaml",
		"this machine has lo":                                                     "--interface eth7 --proxy --inventory nodes.yaml",
		"at least one of the flags in the group [proxy no-dhcp pool] is required": "--interface lo --inventory nodes.yaml",
		"[no-dhcp proxy] were all set":                                            "--interface lo --inventory nodes.yaml --proxy --no-dhcp",
		"the port must be 8069":                                                   "--interface lo --inventory nodes.yaml --proxy --port 80",
		`--pool "10.0.0.1": want two addresses`:                                   "--interface lo --inventory nodes.yaml --pool 10.0.0.1",
		"outside the network of --interface lo": "--interface lo --inventory nodes.yaml --pool " +
			"10.0.0.1-10.0.0.9",
		"the address of this machine": "--interface lo --inventory nodes.yaml --pool " +
			"127.0.0.1-127.0.0.9",
		`--router "10.0.0.1": want an address in 127.0.0.0`: "--interface lo --inventory nodes.yaml --pool " +
			"127.0.0.5-127.0.0.9 --router 10.0.0.1",
	} {
		out, code := pikelet(t, dir, nil, append([]string{"serve", "image"}, strings.Fields(args)...)...)
		if code != 2 || !strings.Contains(out, want) {
			t.Errorf("%s: %d: %s", args, code, out)
		}
	}
	for want, args := range map[string]string{
		"want a number such as 0xf21": "--order net",
		"missing digit 2":             "--order 0xf1",
		"want an IPv4 address":        "--server nas.local",
		"--dnsmasq requires --server": "--dnsmasq",
	} {
		out, code := pikelet(t, dir, nil, append([]string{"eeprom"}, strings.Fields(args)...)...)
		if code != 2 || !strings.Contains(out, want) {
			t.Errorf("eeprom %s: %d: %s", args, code, out)
		}
	}
	for want, args := range map[string]string{
		`--mac "": want the hardware address that pikelet nodes shows`: "52617370 --mac= --node attic",
		`required flag(s) "mac" not set`:                               "52617370",
		`--mac "d8:3a": want the hardware address`:                     "52617370 --mac d8:3a",
	} {
		out, code := pikelet(t, dir, nil, append([]string{"nodes", "adopt"}, strings.Fields(args)...)...)
		if code != 2 || !strings.Contains(out, want) {
			t.Errorf("nodes adopt %s: %d: %s", args, code, out)
		}
	}
	if out, code := pikelet(t, dir, nil, "eeprom", "--bootloader", "token"); code != 1 || !strings.Contains(out, "6 bytes") {
		t.Errorf("eeprom --bootloader: %d: %s", code, out)
	}
	if out, code := pikelet(t, dir, nil, "eeprom", "--server", "10.0.0.1"); code != 0 || !strings.Contains(out, "\nTFTP_IP=10.0.0.1\n") {
		t.Errorf("eeprom: %d: %s", code, out)
	}
}
