package etc

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// elsewhere are the fields of a config that pikeletd reads itself, and that
// /etc need not hold; each with what reads it.
var elsewhere = map[string]string{
	"K3s.Role":                "TestGolden: the runlevel has pikelet-k3s",
	"K3s.ShutdownGrace":       "endContainers",
	"Hostname":                "/etc has the name of the identity, which prepare makes of it",
	"Seed":                    "takeSeed",
	"Generation":              "volume: mayOpen and mark",
	"BoardSeed":               "prepare: Identity.WithBoard",
	"Time.Wait":               "checks.d and k3s.go",
	"ISCSI.Targets":           "login: the records of open-iscsi",
	"ISCSI.Discovery":         "discover: the records of open-iscsi",
	"Volume":                  "openVolume and prepareVolume",
	"Upgrades":                "newPoller",
	"Datastore":               "saveDatastore",
	"Backup":                  "pikelet-backup run: jobOf",
	"Restore":                 "pikelet-backup fetch",
	"Logs":                    "prepare binds /var/log",
	"Files.Mode":              "the mode of the file",
	"Files.Owner":             "the owner of the file",
	"Files.Secret":            "the mode of the file",
	"Users.Admin":             "TestGolden: doas.conf",
	"Console":                 "TestGolden: inittab",
	"Network.Interfaces.DHCP": "TestIfup",
}

// TestEveryFieldIsWritten sets each field of a config, alone, to a value that
// nothing else has, and looks for it in what a node writes: what a person asked
// for must not be dropped without a word.
func TestEveryFieldIsWritten(t *testing.T) {
	base := func() reflect.Value {
		cfg := &nodeconfig.Config{K3s: nodeconfig.K3s{Role: "server"}}
		cfg.Network.Wifi.Country = "DE"
		return reflect.ValueOf(cfg).Elem()
	}
	plain := render(t, base().Addr().Interface().(*nodeconfig.Config))
	seen := 0
	used := map[string]bool{}
	eachField(reflect.TypeFor[nodeconfig.Config](), nil, func(path []int, name string) {
		for skipped := range elsewhere {
			if name == skipped || strings.HasPrefix(name, skipped+".") {
				used[skipped] = true
				return
			}
		}
		cfg := base()
		want, ok := setField(cfg, path, name)
		if !ok {
			t.Errorf("%s: no value is known for it", name)
			return
		}
		seen++
		got := render(t, cfg.Addr().Interface().(*nodeconfig.Config))
		if !strings.Contains(got, want) || strings.Count(got, want) == strings.Count(plain, want) {
			t.Errorf("%s: %q is nowhere in what a node writes", name, want)
		}
	})
	if seen < 40 {
		t.Errorf("only %d fields were looked for", seen)
	}
	for name := range elsewhere {
		if !used[name] {
			t.Errorf("%s is no field", name)
		}
	}
}

// values are what fields are set to that take no other text.
var values = map[string]string{
	"Network.Interfaces.Name": "eth7", "Network.Interfaces.VLAN": "3071", "Network.Interfaces.Parent": "eth6",
	"Network.Interfaces.Bond.Ports": "eth5",
	"Network.Interfaces.Bond.Mode":  "802.3ad", "Network.Interfaces.Bridge.Ports": "eth5", "Network.Interfaces.Addresses": "10.71.72.73/24",
	"Network.Interfaces.Gateway": "10.71.72.74", "Network.Interfaces.Gateway6": "fe80::71", "Network.Interfaces.Routes.To": "10.75.0.0/16",
	"Network.Interfaces.Routes.Via": "10.76.0.1", "Network.Interfaces.MTU": "1471", "Network.Interfaces.Routes.Metric": "1471",
	"Network.Wifi.Networks.EAP.Method": "ttls", "Network.Wifi.Networks.SSID": "Zq7", "Network.Wifi.Networks.Password": "password-71",
	"Time.Zone": "Europe/Berlin", "Network.Wifi.Country": "NZ",
}

// found is what is written of a value, where that is not the value itself.
var found = map[string]string{
	"Network.Interfaces.Addresses": "10.71.72.73", "Network.Wifi.Networks.SSID": "5a7137", "Network.Wifi.Networks.Hidden": "scan_ssid=1",
	"Network.Wifi.Networks.EAP.Method": "eap=TTLS", "Network.Interfaces.Dummy": "type dummy",
	"Network.Interfaces.SLAAC": "accept_ra", "Registries.Configs.TLS.InsecureSkipVerify": "insecure_skip_verify: true",
	"Time.Zone": "zoneinfo/Europe/Berlin", "Files.Path": "/var/lib/files-path",
}

// context sets what a field needs beside it to mean anything.
func context(cfg *nodeconfig.Config, name string) {
	n := &cfg.Network
	switch {
	case strings.HasPrefix(name, "Network.Interfaces."):
		if len(n.Interfaces) == 0 {
			n.Interfaces = []nodeconfig.Interface{{}}
		}
		in := &n.Interfaces[0]
		in.Name = "eth0"
		switch strings.TrimPrefix(name, "Network.Interfaces.") {
		case "VLAN":
			in.Parent = "eth1"
		case "Parent":
			in.VLAN = 5
		case "Bond.Mode":
			in.Bond.Ports = []string{"eth1"}
		case "Gateway", "Gateway6":
			in.Addresses = []string{"10.71.72.75/24"}
		case "Routes.Via", "Routes.Metric":
			in.Routes = []nodeconfig.Route{{To: "10.0.0.0/8"}}
		}
	case strings.HasPrefix(name, "Network.Wifi.Networks."):
		if len(n.Wifi.Networks) == 0 {
			n.Wifi.Networks = []nodeconfig.WifiNetwork{{}}
		}
	case name == "Network.Wifi.Country":
		n.Wifi.Networks = []nodeconfig.WifiNetwork{{SSID: "x"}}
	case strings.HasPrefix(name, "Users."):
		if len(cfg.Users) == 0 {
			cfg.Users = []nodeconfig.User{{}}
		}
		cfg.Users[0].Name = "anna"
	case strings.HasPrefix(name, "Files."):
		if len(cfg.Files) == 0 {
			cfg.Files = []nodeconfig.File{{}}
		}
		cfg.Files[0].Path = "/etc/x"
	}
}

// eachField calls f for each leaf of a type, with the indices of its fields; the
// only entry of lists and maps has none.
func eachField(of reflect.Type, path []int, f func(path []int, name string)) {
	var walk func(reflect.Type, []int, []string)
	walk = func(of reflect.Type, path []int, name []string) {
		for of.Kind() == reflect.Slice || of.Kind() == reflect.Map || of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if of.Kind() != reflect.Struct {
			f(path, strings.Join(name, "."))
			return
		}
		for i := range of.NumField() {
			walk(of.Field(i).Type, append(slices.Clone(path), i), append(slices.Clone(name), of.Field(i).Name))
		}
	}
	walk(of, path, nil)
}

// setField sets one field of a config, and returns what to look for.
func setField(cfg reflect.Value, path []int, name string) (string, bool) {
	context(cfg.Addr().Interface().(*nodeconfig.Config), name)
	text := values[name]
	if text == "" {
		text = "/var/lib/" + strings.ReplaceAll(strings.ToLower(name), ".", "-")
	}
	ok := setIn(cfg, path, text)
	if want, known := found[name]; known {
		return want, ok
	}
	return text, ok
}

func setIn(v reflect.Value, path []int, text string) bool {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return setIn(v.Elem(), path, text)
	case reflect.Slice:
		if v.Len() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		}
		return setIn(v.Index(0), path, text)
	case reflect.Map:
		e := reflect.New(v.Type().Elem()).Elem()
		ok := setIn(e, path, text)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("key"), e)
		return ok
	case reflect.Interface:
		v.Set(reflect.ValueOf(text))
		return true
	case reflect.Struct:
		return setIn(v.Field(path[0]), path[1:], text)
	case reflect.String:
		v.SetString(text)
		return true
	case reflect.Bool:
		v.SetBool(true)
		return true
	case reflect.Int, reflect.Int64:
		var n int64
		if _, err := fmt.Sscan(text, &n); err != nil {
			return false
		}
		v.SetInt(n)
		return true
	}
	return false
}

// render returns what a config makes of /etc, of an image that has everything.
func render(t *testing.T, cfg *nodeconfig.Config) string {
	t.Helper()
	in := input(t, "", everything...)
	in.Config = cfg
	return text(Files(in))
}
