package nodeconfig

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/yamlcheck"
)

// checker gathers what is wrong with a config.
type checker struct {
	*yamlcheck.Checker
	public bool // secrets come later, another way
}

var (
	hostForm   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	seedForm   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	userForm   = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	ifaceForm  = regexp.MustCompile(`^[a-z][a-zA-Z0-9._-]{0,14}$`)
	domainForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)
	zoneForm   = regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}$`)
	modeForm   = regexp.MustCompile(`^0[0-7]{3}$`)
	sizeForm   = regexp.MustCompile(`^[1-9][0-9]{0,6}(MiB|GiB)$`)
	sysctlForm = regexp.MustCompile(`^[a-z0-9_]+([./][A-Za-z0-9_*-]+)+$`)
	moduleForm = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	optionForm = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*\+?$`)
	// RFC 7143 section 4.2.7 has names in lower case, and targets that are told
	// apart by case or have _ are common: Synology's and StarWind's own names.
	// open-iscsi takes any name of at most 223 bytes.
	iqnForm = regexp.MustCompile(`^(iqn\.\d{4}-\d{2}\.[A-Za-z0-9._-]+(:[A-Za-z0-9._:-]+)?|eui\.[0-9A-Fa-f]{16}|naa\.[0-9A-Fa-f]{16,32})$`)
)

// maxGeneration is how many boards a node may have had: more than one could wear out.
const maxGeneration = 1000

// check checks a whole config.
func (c *checker) check(cfg *Config) {
	if cfg.Hostname != "" && !hostForm.MatchString(cfg.Hostname) {
		c.Add("hostname", "%q: want lower-case letters, digits and dashes, at most 63", cfg.Hostname)
	}
	if cfg.Seed != "" && !seedForm.MatchString(cfg.Seed) && !IsEncrypted(cfg.Seed) {
		c.Add("seed", "want 64 hexadecimal digits; leave it out, and pikelet or the node makes one")
	}
	if cfg.Generation < 0 || cfg.Generation > maxGeneration {
		c.Add("generation", "%d: want 0 to %d", cfg.Generation, maxGeneration)
	}
	if cfg.BoardSeed != "" && !seedForm.MatchString(cfg.BoardSeed) && !IsEncrypted(cfg.BoardSeed) {
		c.Add("board-seed", "want 64 hexadecimal digits; leave it out, and pikelet makes one")
	}
	if cfg.Console != "" && cfg.Console != "root" {
		c.Add("console", "%q: want root, or nothing for a console without a way in", cfg.Console)
	}
	if cfg.Logs != "" && cfg.Logs != OnMemory && cfg.Logs != OnState {
		c.Add("logs", "%q: want memory or state", cfg.Logs)
	}
	c.users(cfg.Users)
	c.network("network", cfg.Network)
	if z := cfg.Time.Zone; z != "" && !zoneForm.MatchString(z) {
		c.Add("time.zone", "%q: want a zone such as Europe/Berlin", z)
	}
	for i, s := range cfg.Time.Servers {
		if !isHost(s) {
			c.Add(fmt.Sprintf("time.servers[%d]", i), "%q: want a name or an address", s)
		}
	}
	if w := cfg.Upgrades.Window; w != "" {
		if _, err := ParseWindow(w); err != nil {
			c.Add("upgrades.window", "%v", err)
		}
	}
	if ch := cfg.Upgrades.Channel; ch != "" {
		if err := image.CheckReference(ch); err != nil {
			c.Add("upgrades.channel", "%v", err)
		}
	}
	if p := time.Duration(cfg.Upgrades.Poll); p != 0 && p < time.Second {
		c.Add("upgrades.poll", "%v is too often; want a span of time such as 6h", p)
	}
	if cfg.Datastore.Copies < 0 || cfg.Datastore.Copies > 20 {
		c.Add("datastore.copies", "%d: want 1 to 20", cfg.Datastore.Copies)
	}
	if o := cfg.Datastore.OnLeft; o != "" && o != OnLeftRestore && o != OnLeftKeep {
		c.Add("datastore.onLeft", "%q: want restore or keep", o)
	}
	c.backup("backup", cfg.Backup)
	c.restore("restore", cfg)
	c.k3s("k3s", cfg.K3s)
	c.clusterInit(cfg)
	c.registries("registries", cfg.Registries)
	c.iscsi("iscsi", cfg.ISCSI)
	c.volume("volume", cfg)
	c.files(cfg)
	for _, key := range slices.Sorted(maps.Keys(cfg.Sysctls)) {
		if !sysctlForm.MatchString(key) {
			c.Add("sysctls."+key, "want a name such as net.ipv4.ip_forward")
		}
		if strings.ContainsAny(cfg.Sysctls[key], "\n\r") {
			c.Add("sysctls."+key, "want a value on one line")
		}
	}
	for i, m := range cfg.Modules {
		if !moduleForm.MatchString(m) {
			c.Add(fmt.Sprintf("modules[%d]", i), "%q: want the name of a kernel module", m)
		}
	}
}

// reserved are accounts that images have; those of packages are too many to
// list, so a node refuses to change any but root.
var reserved = []string{"bin", "daemon", "adm", "lp", "sync", "shutdown", "halt", "mail", "news", "uucp", "cron", "ftp", "sshd",
	"games", "ntp", "guest", "nobody", "chrony"}

// doasWords are the words of doas.conf(5): a rule for an account of that name is
// a syntax error there, and doas then refuses everything.
var doasWords = []string{"args", "as", "cmd", "deny", "keepenv", "nolog", "nopass", "permit", "persist", "setenv"}

func (c *checker) users(users []User) {
	seen := map[string]bool{}
	for i, u := range users {
		field := fmt.Sprintf("users[%d]", i)
		switch {
		case !userForm.MatchString(u.Name):
			c.Add(field+".name", "%q: want lower-case letters, digits, - and _, at most 32", u.Name)
		case slices.Contains(reserved, u.Name):
			c.Add(field+".name", "%q belongs to the system", u.Name)
		case seen[u.Name]:
			c.Add(field+".name", "duplicate user %q", u.Name)
		case u.Admin && slices.Contains(doasWords, u.Name):
			c.Add(field+".name", "%q is a word of doas.conf, where admins stand; an admin needs another name", u.Name)
		}
		seen[u.Name] = true
		if len(u.Keys) == 0 {
			c.Add(field+".keys", "missing; there are no passwords, so want a key for %s", u.Name)
		}
		for k, key := range u.Keys {
			if err := checkKey(key); err != nil {
				c.Add(fmt.Sprintf("%s.keys[%d]", field, k), "%v", err)
			}
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
		if err := checkServer(k.Server); err != nil {
			c.Add(field+".server", "%v", err)
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
	c.labelsAndTaints(field, k)
	for _, key := range slices.Sorted(maps.Keys(k.Options)) {
		at := field + ".options." + key
		name := strings.TrimSuffix(key, "+")
		switch {
		case !optionForm.MatchString(key):
			c.Add(at, "want an option as k3s spells it, without dashes in front")
		case own[name] != "":
			c.Add(at, "%s says that", own[name])
		}
		switch v := k.Options[key].(type) {
		case string, bool, int, int64, uint64, float64:
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
	for _, name := range slices.Sorted(maps.Keys(r.Mirrors)) {
		m := r.Mirrors[name]
		for i, e := range m.Endpoint {
			if u, err := url.Parse(e); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
				c.Add(fmt.Sprintf("%s.mirrors.%s.endpoint[%d]", field, name, i), "%q: want an address such as https://mirror.lan:5000", e)
			}
		}
		for _, from := range slices.Sorted(maps.Keys(m.Rewrite)) {
			if _, err := regexp.Compile(from); err != nil {
				c.Add(fmt.Sprintf("%s.mirrors.%s.rewrite", field, name), "%q: invalid regular expression: %v", from, err)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Configs)) {
		cfg := r.Configs[name]
		if strings.Contains(name, "://") {
			c.Add(field+".configs."+name, "want a registry's name without https://")
		}
		c.registryAuth(field+".configs."+name+".auth", cfg.Auth)
	}
}

// writableTops are the directories a config's files may be in: the others belong
// to the image.
var writableTops = []string{"/etc/", "/var/", "/root/", "/home/"}

// ownDir is where state and volume are mounted.
const ownDir = "/var/lib/pikelet/"

// isDirectory reports whether something is mounted at a path or below it.
func isDirectory(name string) bool {
	return slices.ContainsFunc(node.WritablePaths(), func(w node.Writable) bool {
		return w.Path == name || strings.HasPrefix(w.Path, name+"/")
	})
}

func (c *checker) files(cfg *Config) {
	seen := map[string]bool{}
	for i, f := range cfg.Files {
		at := fmt.Sprintf("files[%d]", i)
		switch {
		case path.Clean(f.Path) != f.Path || !slices.ContainsFunc(writableTops, func(t string) bool { return strings.HasPrefix(f.Path, t) }):
			c.Add(at+".path", "%q: want a file below /etc, /var, /root or /home; the rest belongs to the image", f.Path)
		case strings.HasPrefix(f.Path, ownDir):
			c.Add(at+".path", "%q: what is below %s belongs to Pikelet", f.Path, ownDir)
		case isDirectory(f.Path):
			c.Add(at+".path", "%q is a directory of the system; want a file in it", f.Path)
		case seen[f.Path]:
			c.Add(at+".path", "duplicate path %s", f.Path)
		}
		seen[f.Path] = true
		if f.Mode != "" && (!modeForm.MatchString(f.Mode) || f.Mode == "0000") {
			c.Add(at+".mode", "%q: want permissions such as \"0644\"", f.Mode)
		}
		if m, err := strconv.ParseUint(f.Mode, 8, 32); err == nil && f.Secret && m&0o077 != 0 {
			c.Add(at+".mode", "%s lets others read what is secret", f.Mode)
		}
		if f.Owner != "" && f.Owner != "root" && !slices.ContainsFunc(cfg.Users, func(u User) bool { return u.Name == f.Owner }) {
			c.Add(at+".owner", "%q: not found in users", f.Owner)
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
	if _, err := parseAddr(s); err == nil {
		return true
	}
	// No name ends in a number (RFC 3696 section 2): 10.0.0.256 is an address
	// that is mistyped.
	last := s[strings.LastIndexByte(s, '.')+1:]
	return domainForm.MatchString(s) && strings.Trim(last, "0123456789") != ""
}

func shorten(s string) string {
	if len(s) > 60 {
		return s[:57] + "..."
	}
	return s
}
