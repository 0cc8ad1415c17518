package config

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/node"
	"github.com/pikelet-os/pikelet/internal/strict"
)

// checker gathers what is wrong with a config.
type checker struct {
	*strict.Checker
	public bool // secrets come later, another way
}

var (
	hostForm   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	seedForm   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	userForm   = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	ifaceForm  = regexp.MustCompile(`^[a-z][a-z0-9.]{0,14}$`)
	domainForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)
	zoneForm   = regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}$`)
	modeForm   = regexp.MustCompile(`^0[0-7]{3}$`)
	sizeForm   = regexp.MustCompile(`^[1-9][0-9]{0,6}(MiB|GiB)$`)
	sysctlForm = regexp.MustCompile(`^[a-z0-9_]+([./][A-Za-z0-9_*-]+)+$`)
	moduleForm = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	optionForm = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*\+?$`)
	taintForm  = regexp.MustCompile(`^[A-Za-z0-9./_-]+(=[A-Za-z0-9._-]*)?:(NoSchedule|PreferNoSchedule|NoExecute)$`)
	labelForm  = regexp.MustCompile(`^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
	labelValue = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$`)
	// FACTS 8.1: lower case, digits, dots, dashes and colons, 223 bytes.
	iqnForm = regexp.MustCompile(`^(iqn\.\d{4}-\d{2}\.[a-z0-9.-]+(:[a-z0-9.:-]+)?|eui\.[0-9A-Fa-f]{16}|naa\.[0-9A-Fa-f]{16,32})$`)
)

// encrypted is what secrets begin with that the desk must still decrypt.
const encrypted = "age:"

// check looks at a whole config; prefix is what its fields begin with.
func (c *checker) check(prefix string, cfg *Config) {
	add := func(field, format string, args ...any) { c.Add(prefix+field, format, args...) }
	if cfg.Hostname != "" && !hostForm.MatchString(cfg.Hostname) {
		add("hostname", "%q: want lower-case letters, digits and dashes, at most 63", cfg.Hostname)
	}
	if cfg.Seed != "" && !seedForm.MatchString(cfg.Seed) && !strings.HasPrefix(cfg.Seed, encrypted) {
		add("seed", "want 64 hexadecimal digits; leave it out, and pikelet or the node makes one")
	}
	if cfg.Console != "" && cfg.Console != "root" {
		add("console", "%q: want root, or nothing for a console without a way in", cfg.Console)
	}
	if cfg.Logs != "" && cfg.Logs != OnMemory && cfg.Logs != OnState {
		add("logs", "%q: want memory or state", cfg.Logs)
	}
	c.users(prefix, cfg.Users)
	c.network(prefix+"network", cfg.Network)
	if z := cfg.Time.Zone; z != "" && !zoneForm.MatchString(z) {
		add("time.zone", "%q: want a zone such as Europe/Berlin", z)
	}
	for i, s := range cfg.Time.Servers {
		if !isHost(s) {
			add(fmt.Sprintf("time.servers[%d]", i), "%q: want a name or an address", s)
		}
	}
	if w := cfg.Upgrades.Window; w != "" {
		if _, err := ParseWindow(w); err != nil {
			add("upgrades.window", "%v", err)
		}
	}
	if ch := cfg.Upgrades.Channel; strings.ContainsAny(ch, " \t\n") || strings.Contains(ch, "://") {
		add("upgrades.channel", "%q: want a reference such as registry.example/homelab:stable", ch)
	}
	if p := time.Duration(cfg.Upgrades.Poll); p != 0 && p < time.Second {
		add("upgrades.poll", "%v is too often; want a span of time such as 6h", p)
	}
	if cfg.Datastore.Copies < 0 || cfg.Datastore.Copies > 20 {
		add("datastore.copies", "%d: want 1 to 20", cfg.Datastore.Copies)
	}
	if o := cfg.Datastore.OnLeft; o != "" && o != OnLeftRestore && o != OnLeftKeep {
		add("datastore.onLeft", "%q: want restore or keep", o)
	}
	c.k3s(prefix+"k3s", cfg.K3s)
	c.registries(prefix+"registries", cfg.Registries)
	c.iscsi(prefix+"iscsi", cfg.ISCSI)
	c.volume(prefix+"volume", cfg)
	c.files(prefix, cfg)
	for _, key := range sorted(cfg.Sysctls) {
		if !sysctlForm.MatchString(key) {
			add("sysctls."+key, "want a name such as net.ipv4.ip_forward")
		}
		if strings.ContainsAny(cfg.Sysctls[key], "\n\r") {
			add("sysctls."+key, "want a value on one line")
		}
	}
	for i, m := range cfg.Modules {
		if !moduleForm.MatchString(m) {
			add(fmt.Sprintf("modules[%d]", i), "%q: want the name of a kernel module", m)
		}
	}
}

// reserved are accounts that images have; those of packages are too many to
// list, so a node refuses to change any but root.
var reserved = []string{"bin", "daemon", "adm", "lp", "sync", "shutdown", "halt", "mail", "news", "uucp", "cron", "ftp", "sshd", "games", "ntp", "guest", "nobody", "chrony"}

// doasWords are the words of doas.conf(5): a rule for an account of that name is
// a syntax error there, and doas then lets nobody do anything.
var doasWords = []string{"args", "as", "cmd", "deny", "keepenv", "nolog", "nopass", "permit", "persist", "setenv"}

func (c *checker) users(prefix string, users []User) {
	seen := map[string]bool{}
	for i, u := range users {
		field := fmt.Sprintf("%susers[%d]", prefix, i)
		switch {
		case !userForm.MatchString(u.Name):
			c.Add(field+".name", "%q: want lower-case letters, digits, - and _, at most 32", u.Name)
		case slices.Contains(reserved, u.Name):
			c.Add(field+".name", "%q belongs to the system", u.Name)
		case seen[u.Name]:
			c.Add(field+".name", "there is a user %q above", u.Name)
		case u.Admin && slices.Contains(doasWords, u.Name):
			c.Add(field+".name", "%q is a word of doas.conf, where admins stand; an admin needs another name", u.Name)
		}
		seen[u.Name] = true
		if len(u.Keys) == 0 {
			c.Add(field+".keys", "none; without a key nobody can log in as %s, and there are no passwords", u.Name)
		}
		for k, key := range u.Keys {
			if err := checkKey(key); err != nil {
				c.Add(fmt.Sprintf("%s.keys[%d]", field, k), "%v", err)
			}
		}
	}
}

// checkKey looks at one line of authorized_keys.
func checkKey(line string) error {
	if strings.ContainsAny(line, "\n\r") {
		return fmt.Errorf("want one key a line of the list")
	}
	if strings.Contains(line, "PRIVATE KEY") {
		return fmt.Errorf("this is a private key; want the public one, from the file that ends in .pub")
	}
	f := strings.Fields(line)
	for i, kind := range f {
		if !strings.HasPrefix(kind, "ssh-") && !strings.HasPrefix(kind, "ecdsa-") && !strings.HasPrefix(kind, "sk-") {
			continue // options come before
		}
		if i+1 == len(f) {
			break
		}
		b, err := base64.StdEncoding.DecodeString(f[i+1])
		if err != nil || len(b) < 4+len(kind) || int(binary.BigEndian.Uint32(b)) != len(kind) || string(b[4:4+len(kind)]) != kind {
			return fmt.Errorf("the key behind %s is damaged; copy the whole line from the file that ends in .pub", kind)
		}
		return nil
	}
	return fmt.Errorf("%q: want a public key such as ssh-ed25519 AAAA... you@desk", shorten(line))
}

func (c *checker) network(field string, n Network) {
	gateways, seen := "", map[string]bool{}
	for i, in := range n.Interfaces {
		at := fmt.Sprintf("%s.interfaces[%d]", field, i)
		if !ifaceForm.MatchString(in.Name) {
			c.Add(at+".name", "%q: want the kernel's name, such as eth0", in.Name)
		}
		if seen[in.Name] {
			c.Add(at+".name", "%s is set up above", in.Name)
		}
		seen[in.Name] = true
		var nets []netip.Prefix
		for a, text := range in.Addresses {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				c.Add(fmt.Sprintf("%s.addresses[%d]", at, a), "%q: want an address and the length of its network, such as 192.168.1.10/24", text)
				continue
			}
			nets = append(nets, p)
			if p.Addr().Is4() && p.Bits() < 31 && p.Addr() == p.Masked().Addr() {
				c.Add(fmt.Sprintf("%s.addresses[%d]", at, a), "%s is the network itself; want an address in it", text)
			}
		}
		if len(in.Addresses) == 0 && in.DHCP != nil && !*in.DHCP {
			c.Add(at+".addresses", "none, and dhcp: false; %s would have no address", in.Name)
		}
		if in.MTU != 0 && (in.MTU < 576 || in.MTU > 9216) {
			c.Add(at+".mtu", "%d: want 576 to 9216", in.MTU)
		}
		if in.Gateway == "" {
			continue
		}
		if gateways != "" {
			c.Add(at+".gateway", "%s has a gateway already; only one can be the way to everything else", gateways)
		}
		gateways = in.Name
		gw, err := parseAddr(in.Gateway)
		switch {
		case err != nil:
			c.Add(at+".gateway", "%q: want an address", in.Gateway)
		case len(nets) == 0:
			c.Add(at+".gateway", "DHCP says what the gateway is; a gateway goes with addresses")
		case !slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Contains(gw) }):
			c.Add(at+".gateway", "%s is in none of the networks of %s", gw, in.Name)
		}
	}
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
	c.wifi(field+".wifi", n.Wifi)
}

func (c *checker) wifi(field string, w Wifi) {
	if len(w.Networks) > 0 && w.Country == "" {
		c.Add(field+".country", "missing; where the node stands decides which channels it may use: two letters, such as DE")
	}
	if w.Country != "" && !regexp.MustCompile(`^[A-Z]{2}$`).MatchString(w.Country) {
		c.Add(field+".country", "%q: want two capital letters, such as DE", w.Country)
	}
	for i, n := range w.Networks {
		at := fmt.Sprintf("%s.networks[%d]", field, i)
		if n.SSID == "" || len(n.SSID) > 32 || strings.ContainsAny(n.SSID, "\n\"") {
			c.Add(at+".ssid", "%q: want a name of 1 to 32 bytes", n.SSID)
		}
		if p := n.Password; p != "" && !strings.HasPrefix(p, encrypted) && (len(p) < 8 || len(p) > 63 || strings.ContainsAny(p, "\n\"")) {
			c.Add(at+".password", "it has %d characters; want 8 to 63, without quotes", len(p))
		}
	}
}

// own are k3s' options that other fields, or Pikelet, decide.
var own = map[string]string{
	"token": "k3s.token", "token-file": "k3s.token", "agent-token": "k3s.agent-token", "agent-token-file": "k3s.agent-token",
	"server": "k3s.server", "node-name": "hostname", "node-label": "k3s.labels", "node-taint": "k3s.taints",
	"private-registry": "registries", "data-dir": "volume",
	// k3s keeps the number it makes for this in /etc/rancher/node/id, and /etc is
	// new on each boot: the node would join under another name each time.
	"with-node-id": "hostname",
}

func (c *checker) k3s(field string, k K3s) {
	switch k.Role {
	case "server", "agent":
	case "":
		if k.Server != "" || k.Token != "" || k.AgentToken != "" || len(k.Labels)+len(k.Taints)+len(k.Options) > 0 {
			c.Add(field+".role", "missing; want server or agent")
		}
	default:
		c.Add(field+".role", "%q: want server or agent", k.Role)
	}
	if k.Role == "agent" {
		if k.Server == "" {
			c.Add(field+".server", "missing; an agent joins a server, such as https://10.0.0.10:6443")
		}
		if k.Token == "" && !c.public {
			c.Add(field+".token", "missing; an agent needs the token of the cluster it joins")
		}
		if k.AgentToken != "" {
			c.Add(field+".agent-token", "servers say what lets agents join; an agent has it as its token")
		}
	}
	if k.Server != "" {
		if u, err := url.Parse(k.Server); err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			c.Add(field+".server", "%q: want an address such as https://10.0.0.10:6443", k.Server)
		}
	}
	if k.Role == "server" && k.Server != "" && k.Token == "" && !c.public {
		c.Add(field+".token", "missing; a server that joins others needs their token")
	}
	for name, token := range map[string]string{"token": k.Token, "agent-token": k.AgentToken} {
		if strings.ContainsAny(token, " \t\r\n") {
			c.Add(field+"."+name, "a token has no blanks or line ends")
		}
	}
	for _, key := range sorted(k.Labels) {
		if !labelForm.MatchString(key) || !labelValue.MatchString(k.Labels[key]) {
			c.Add(field+".labels."+key, "%s=%s is no label of Kubernetes", key, k.Labels[key])
		}
	}
	for i, t := range k.Taints {
		if !taintForm.MatchString(t) {
			c.Add(fmt.Sprintf("%s.taints[%d]", field, i), "%q: want KEY=VALUE:NoSchedule, :PreferNoSchedule or :NoExecute", t)
		}
	}
	for _, key := range sorted(k.Options) {
		at := field + ".options." + key
		name := strings.TrimSuffix(key, "+")
		switch {
		case !optionForm.MatchString(key):
			c.Add(at, "want an option as k3s spells it, without dashes in front")
		case own[name] != "":
			c.Add(at, "%s says that", own[name])
		}
		switch v := k.Options[key].(type) {
		case string, bool, int, float64:
		case []any:
			for i, e := range v {
				if _, nested := e.([]any); nested || isMap(e) || e == nil {
					c.Add(fmt.Sprintf("%s[%d]", at, i), "want text or a number")
				}
			}
		default:
			c.Add(at, "want text, a number, true, false or a list")
		}
	}
}

func isMap(v any) bool { _, is := v.(map[string]any); return is }

func (c *checker) registries(field string, r Registries) {
	for _, name := range sorted(r.Mirrors) {
		m := r.Mirrors[name]
		for i, e := range m.Endpoint {
			if u, err := url.Parse(e); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
				c.Add(fmt.Sprintf("%s.mirrors.%s.endpoint[%d]", field, name, i), "%q: want an address such as https://mirror.lan:5000", e)
			}
		}
		for _, from := range sorted(m.Rewrite) {
			if _, err := regexp.Compile(from); err != nil {
				c.Add(fmt.Sprintf("%s.mirrors.%s.rewrite", field, name), "%q is no regular expression: %v", from, err)
			}
		}
	}
	for _, name := range sorted(r.Configs) {
		cfg := r.Configs[name]
		if strings.Contains(name, "://") {
			c.Add(field+".configs."+name, "want a registry's name without https://")
		}
		if cfg.Auth.Password != "" && cfg.Auth.Username == "" {
			c.Add(field+".configs."+name+".auth.username", "missing; a password needs one")
		}
	}
}

// writableTops are the folders a config's files may be in: the others belong
// to the image.
var writableTops = []string{"/etc/", "/var/", "/root/", "/home/"}

// ownFolder is where state and volume are mounted.
const ownFolder = "/var/lib/pikelet/"

// isFolder reports whether something is mounted at a path or below it.
func isFolder(name string) bool {
	return slices.ContainsFunc(node.WritablePaths(), func(w node.Writable) bool {
		return w.Path == name || strings.HasPrefix(w.Path, name+"/")
	})
}

func (c *checker) files(prefix string, cfg *Config) {
	seen := map[string]bool{}
	for i, f := range cfg.Files {
		at := fmt.Sprintf("%sfiles[%d]", prefix, i)
		switch {
		case path.Clean(f.Path) != f.Path || !slices.ContainsFunc(writableTops, func(t string) bool { return strings.HasPrefix(f.Path, t) }):
			c.Add(at+".path", "%q: want a file below /etc, /var, /root or /home; the rest belongs to the image", f.Path)
		case strings.HasPrefix(f.Path, ownFolder):
			c.Add(at+".path", "%q: what is below %s belongs to Pikelet", f.Path, ownFolder)
		case isFolder(f.Path):
			c.Add(at+".path", "%q is a folder of the system; want a file in it", f.Path)
		case seen[f.Path]:
			c.Add(at+".path", "there is a file %s above", f.Path)
		}
		seen[f.Path] = true
		if f.Mode != "" && (!modeForm.MatchString(f.Mode) || f.Mode == "0000") {
			c.Add(at+".mode", "%q: want permissions such as \"0644\"", f.Mode)
		}
		if m, err := strconv.ParseUint(f.Mode, 8, 32); err == nil && f.Secret && m&0o077 != 0 {
			c.Add(at+".mode", "%s lets others read what is secret", f.Mode)
		}
		if f.Owner != "" && f.Owner != "root" && !slices.ContainsFunc(cfg.Users, func(u User) bool { return u.Name == f.Owner }) {
			c.Add(at+".owner", "%q is none of users", f.Owner)
		}
	}
}

// parseAddr is netip.ParseAddr for an address whose zone, if it has one, is the
// name of an interface: package netip takes any bytes for a zone, line ends
// too, and addresses are written into files of others' formats.
func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err == nil && !zoneIsInterface(a) {
		return netip.Addr{}, fmt.Errorf("%q: its zone is not the name of an interface", s)
	}
	return a, err
}

func zoneIsInterface(a netip.Addr) bool { return a.Zone() == "" || ifaceForm.MatchString(a.Zone()) }

func isHost(s string) bool {
	_, err := parseAddr(s)
	return err == nil || domainForm.MatchString(s) && net.ParseIP(s) == nil
}

func shorten(s string) string {
	if len(s) > 60 {
		return s[:57] + "..."
	}
	return s
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
