package etc

import (
	"encoding/hex"
	"os/exec"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

const (
	wifiFile = "/etc/wpa_supplicant/wpa_supplicant.conf"
	wifiCA   = "\nfiles: [{path: /etc/ssl/campus.pem}]"
)

func TestWifiFile(t *testing.T) {
	psk := strings.Repeat("0aF9", 16)
	got := written(t, wifiFile,
		`network: {wifi: {country: DE, networks: [{ssid: 'Anna"s', password: 'with "quotes" #1'}, {ssid: b, password: `+psk+`}]}}`)
	for _, want := range []string{"ssid=416e6e612273\n", "\tpsk=\"with \"quotes\" #1\"\n\tkey_mgmt=WPA-PSK SAE\n", "\tpsk=" + psk +
		"\n\tkey_mgmt=WPA-PSK\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// TestWifiCAExists: the authority's certificate is in the image, or among files.
func TestWifiCAExists(t *testing.T) {
	const text = "network: {wifi: {country: DE, networks: [{ssid: campus, eap: {identity: anna, password: S3cret, ca: /etc/ssl/campus.pem}}]}}"
	for name, c := range map[string]struct {
		text     string
		image    []string
		problems int
	}{
		"image": {text, []string{"etc/ssl/campus.pem"}, 0}, "files": {text + wifiCA, nil, 0}, "neither": {text, nil, 1},
	} {
		_, problems := Files(input(t, c.text, append(c.image, "sbin/wpa_supplicant")...))
		if all := strings.Join(problems, "\n"); len(problems) != c.problems || strings.Contains(all, "S3cret") || c.problems == 1 &&
			!strings.Contains(all, "/etc/ssl/campus.pem") {
			t.Errorf("%s: %q", name, problems)
		}
	}
}

// supplicant runs wpa_supplicant on a file: its complaints about it, and what it
// read of each network. There is no interface, so it ends when it has the file.
func supplicant(t *testing.T, files tree, text string) (complaints []string, read map[string][]string) {
	t.Helper()
	name := files.write(t, "wpa_supplicant.conf", text)
	cmd := files.command("sbin/wpa_supplicant", "-dd", "-K", "-c", name, "-i", "nosuch", "-D", "wired")
	out, _ := exec.Command(cmd[0], cmd[1:]...).CombinedOutput() // it fails always, without the interface
	lines := strings.Split(string(out), "\n")
	dump := regexp.MustCompile(`^(.+) - hexdump(_ascii)?\(len=(\d+)\):(.*)$`)
	read = map[string][]string{}
	begun := false
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		begun = begun || strings.HasPrefix(line, "Reading configuration file")
		if strings.HasPrefix(line, "Line ") || strings.HasPrefix(line, "Failed to read or parse") {
			complaints = append(complaints, line)
		}
		if key, value, ok := strings.Cut(line, "="); ok && key == "key_mgmt: 0x"+value {
			read["key_mgmt"] = append(read["key_mgmt"], value)
		}
		m := dump.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		digits := m[4]
		for m[2] != "" && i+1 < len(lines) && strings.HasPrefix(lines[i+1], "     ") {
			i++
			row := lines[i][5:]
			digits += row[:min(len(row), 3*16)]
		}
		b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		read[m[1]] = append(read[m[1]], string(b))
	}
	if !begun {
		t.Fatalf("wpa_supplicant did not read the file:\n%s", out)
	}
	return complaints, read
}

// TestWifiAsSupplicantReadsIt has wpa_supplicant itself read what is written.
func TestWifiAsSupplicantReadsIt(t *testing.T) {
	files := unpack(t, "wpa_supplicant", "libc6", "libgcc-s1", "libcap2", "libdbus-1-3", "libnl-3-200", "libnl-genl-3-200",
		"libnl-route-3-200",
		"libpcsclite1", "libreadline8t64", "libssl3t64", "libsystemd0", "libtinfo6", "libzstd1", "zlib1g")
	long := strings.Repeat("x", 63)
	// Of An and good"#word, by Python's hashlib.pbkdf2_hmac.
	const key = "\x5c\xe3\x5e\x64\xe9\x00\xb8\xb1\xde\x30\x01\x35\xea\xfd\x82\x8f" +
		"\x1b\xe7\x58\x22\xa1\xfd\x98\x9c\xcc\x4b\x6c\xd9\x1b\x9a\x2a\x8c"
	for name, c := range map[string]struct {
		networks string
		want     map[string][]string // what wpa_supplicant prints of the values that it read
	}{
		"password": {`{ssid: lab, password: correct horse}`, map[string][]string{"ssid": {"lab"}, "PSK (ASCII passphrase)": {"correct horse"}}},
		"quotes and hashes": {`{ssid: 'A"b', password: '"a" #b \n"'}`,
			map[string][]string{"ssid": {`A"b`}, "PSK (ASCII passphrase)": {`"a" #b \n"`}}},
		"a hash after a quote": {`{ssid: An, password: 'good"#word'}`,
			map[string][]string{"ssid": {"An"}, "PSK (ASCII passphrase)": nil, "PSK": {key}, "sae_password": {`good"#word`}}},
		"a hash between quotes": {`{ssid: An, password: 'good"#"word'}`, nil},
		"blanks at the ends": {`{ssid: ' a ', password: ' 1234567 '}`, map[string][]string{"ssid": {" a "},
			"PSK (ASCII passphrase)": {" 1234567 "}}},
		"63 characters": {`{ssid: a, password: ` + long + `}`, map[string][]string{"PSK (ASCII passphrase)": {long}}},
		"a name in UTF-8": {`{ssid: 'Käse 🧀', password: 'Käse 🧀 12'}`, map[string][]string{"ssid": {"Käse 🧀"},
			"PSK (ASCII passphrase)": {"Käse 🧀 12"}}},
		"a name of 32 bytes":  {`{ssid: ` + strings.Repeat("y", 32) + `}`, map[string][]string{"ssid": {strings.Repeat("y", 32)}}},
		"a name like a value": {`{ssid: 'P"00ff"', hidden: true}`, map[string][]string{"ssid": {`P"00ff"`}}},
		"a key of 64 digits": {`{ssid: a, password: ` + strings.Repeat("0aF9", 16) + `}`,
			map[string][]string{"PSK": {strings.Repeat("\x0a\xf9", 16)}, "PSK (ASCII passphrase)": nil}},
		"several": {`{ssid: a, password: 12345678}, {ssid: b}`, map[string][]string{"ssid": {"a", "b"}}},
		"peap": {`{ssid: c, eap: {identity: 'anna "a" #1', password: 'p"#w', ca: /etc/ssl/campus.pem, domain: r.example}}`,
			map[string][]string{"identity": {`anna "a" #1`}, "password": {`p"#w`}, "ca_cert": {"/etc/ssl/campus.pem"}, "phase2": {"auth=MSCHAPV2"},
				"domain_suffix_match": {"r.example"}}},
		"ttls": {`{ssid: c, eap: {method: ttls, identity: a@b, anonymous: x@b, password: ` + strings.Repeat("z", 200) +
			`, ca: /etc/ssl/campus.pem}}`,
			map[string][]string{"anonymous_identity": {"x@b"}, "password": {strings.Repeat("z", 200)}, "phase2": {"auth=PAP"}}},
	} {
		complaints, read := supplicant(t, files, written(t, wifiFile, "network: {wifi: {country: DE, networks: ["+c.networks+"]}}"+wifiCA))
		if len(complaints) > 0 {
			t.Errorf("%s: wpa_supplicant says %q", name, complaints)
		}
		for field, want := range c.want {
			if !reflect.DeepEqual(read[field], want) {
				t.Errorf("%s: wpa_supplicant reads %s %q, want %q; all: %q", name, field, read[field], want, read)
			}
		}
	}
	// And it does complain.
	for _, bad := range []string{"ssid=416", "ssid=41\n\tpsk=\"short\"", "ssid=41\n\tkey_mgmt=WPA-PSK FOO"} {
		if complaints, _ := supplicant(t, files, "network={\n\t"+bad+"\n}\n"); len(complaints) == 0 {
			t.Errorf("%q: no complaint", bad)
		}
	}
}
