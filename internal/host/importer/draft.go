package importer

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// draft is an inventory in the making.
type draft struct {
	files   reader
	options Options
	visited int // values of YAML
	sealed  map[string]string
	leftOut []string
	nodes   []*nodeconfig.Node
	notes   []Note
	err     error // the first
	// overrides has a key of config.yaml replace what an earlier file says, as k3s
	// reads the files of config.yaml.d.
	overrides bool
	dataDir   string // of k3s, where a source moves it
}

func (d *draft) note(at place, what, why string) {
	what = strings.Map(printable, strings.ReplaceAll(what, hole, "..."))
	d.notes = append(d.notes, Note{strings.Map(printable, at.file), at.line, what, strings.Map(printable, why)})
}

func (d *draft) notef(at place, what, why string, args ...any) {
	d.note(at, what, fmt.Sprintf(why, args...))
}

func (d *draft) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

// node adds a machine.
func (d *draft) node() *nodeconfig.Node {
	if len(d.nodes) >= maxNodes {
		d.fail(fmt.Errorf("%w: more than %d machines", ErrTooLarge, maxNodes))
	}
	n := &nodeconfig.Node{}
	d.nodes = append(d.nodes, n)
	return n
}

// secret keeps a secret: sealed, or not at all.
func (d *draft) secret(to *string, field, secret string, at place) {
	switch {
	case secret == "":
		return
	case strings.Contains(secret, hole):
		d.note(at, field, "a template, which is not evaluated; pikelet node encrypt makes an inventory's secret of the value")
	case d.options.Seal == nil:
		if !slices.Contains(d.leftOut, field) {
			d.leftOut = append(d.leftOut, field)
		}
		d.note(at, field, "a secret, left out because there is no key to encrypt it to; name one with --recipient, or put it in with "+
			"pikelet node encrypt")
	default:
		text, done := d.sealed[secret]
		if !done {
			var err error
			if text, err = d.options.Seal(secret); err != nil {
				d.fail(err)
				return
			}
			d.sealed[secret] = text
		}
		*to = text
	}
}

var (
	hostForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	notHost  = regexp.MustCompile(`[^a-z0-9-]+`)
	userForm = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
)

// hostname names a node after what a source calls it.
func (d *draft) hostname(n *nodeconfig.Node, text string, at place) {
	switch {
	case text == "":
		return
	case strings.Contains(text, hole):
		d.note(at, "hostname", "a template, which is not evaluated; give the node a hostname in the inventory")
		return
	}
	name := strings.ToLower(text)
	if _, err := netip.ParseAddr(name); err == nil {
		name = "node-" + strings.ReplaceAll(name, ".", "-")
	} else {
		name, _, _ = strings.Cut(name, ".")
	}
	name = strings.Trim(notHost.ReplaceAllString(name, "-"), "-")
	if len(name) > 63 {
		name = strings.Trim(name[:63], "-")
	}
	if !hostForm.MatchString(name) {
		d.notef(at, "hostname", "%.80q is no name for a node; give it one in the inventory", text)
		return
	}
	if name != text {
		d.notef(at, "hostname", "%.80q became %s: a node's name has lower-case letters, digits and dashes", text, name)
	}
	n.Hostname = name
}

// user lets an account log in, once for each name. Keys that the node's SSH server
// would not take are noted.
func (d *draft) user(n *nodeconfig.Node, name string, keys []string, admin bool, at place) {
	if !userForm.MatchString(name) {
		d.notef(at, "user", "%.40q is no account name; want lower-case letters, digits, - and _", name)
		return
	}
	var good []string
	for _, key := range keys {
		key = strings.Join(strings.Fields(key), " ")
		trial := nodeconfig.Config{Users: []nodeconfig.User{{Name: name, Keys: []string{key}}}}
		text, err := yaml.Marshal(trial)
		if err == nil {
			_, err = nodeconfig.Parse("", text)
		}
		if err != nil {
			d.notef(at, "key of "+name, "%v", onlyText(err))
			continue
		}
		if !slices.Contains(good, key) {
			good = append(good, key)
		}
	}
	if len(good) == 0 {
		d.note(at, "user "+name, "no public key comes with it, and nodes have no passwords; --ssh-key FILE.pub gives it one")
		return
	}
	if i := slices.IndexFunc(n.Users, func(u nodeconfig.User) bool { return u.Name == name }); i >= 0 {
		for _, key := range good {
			if !slices.Contains(n.Users[i].Keys, key) {
				n.Users[i].Keys = append(n.Users[i].Keys, key)
			}
		}
		n.Users[i].Admin = n.Users[i].Admin || admin
		return
	}
	n.Users = append(n.Users, nodeconfig.User{Name: name, Keys: good, Admin: admin})
}

var mistakePrefix = regexp.MustCompile(`^[^ ]*:?\d*: [a-z0-9.\[\]]+: `)

// onlyText returns the text of a mistake in a config without its place in that.
func onlyText(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return mistakePrefix.ReplaceAllString(text, "")
}

// valid reports why a setting of a node is refused, without those that are missing
// yet.
func valid(c nodeconfig.Config) error {
	text, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	_, err = nodeconfig.Parse("", text)
	return err
}

// try makes a change to a node, and takes it back with a note where a node would
// refuse it.
func (d *draft) try(n *nodeconfig.Node, what string, at place, change func(c *nodeconfig.Config)) {
	var alone nodeconfig.Config
	change(&alone)
	if len(alone.Files) > 0 {
		for _, f := range alone.Files {
			if f.Owner != "" && f.Owner != "root" {
				alone.Users = append(alone.Users, n.Users...)
			}
		}
	}
	if err := valid(alone); err != nil {
		d.note(at, what, onlyText(err))
		return
	}
	change(&n.Config)
}

// complete notes what nodes need and a source does not say.
func (d *draft) complete(source string) {
	at := place{source, 0}
	for _, n := range d.nodes {
		k := &n.K3s
		if k.Role == "agent" && k.Server == "" {
			d.note(at, "k3s", "an agent without the address of a server; write k3s.role, k3s.server and k3s.token into the inventory")
			*k = nodeconfig.K3s{}
			continue
		}
		if k.Token == "" && (k.Role == "agent" || k.Server != "") && !slices.Contains(d.leftOut, "k3s.token") {
			d.note(at, "k3s.token", "nothing says it; a server has it in /var/lib/rancher/k3s/server/token, and pikelet node encrypt makes "+
				"an inventory's secret of it")
			d.leftOut = append(d.leftOut, "k3s.token")
		}
	}
}

// encode returns the inventory: what all nodes have in common as its defaults.
func (d *draft) encode(source string) ([]byte, error) {
	inv := nodeconfig.Inventory{}
	first := d.nodes[0]
	for _, n := range d.nodes {
		inv.Nodes = append(inv.Nodes, *n)
	}
	if len(d.nodes) > 1 {
		same := func(field func(*nodeconfig.Node) any) bool {
			return !slices.ContainsFunc(d.nodes, func(n *nodeconfig.Node) bool { return !reflect.DeepEqual(field(n), field(first)) })
		}
		hoist := func(field func(*nodeconfig.Node) any, move func(to, from *nodeconfig.Config)) {
			if !same(field) {
				return
			}
			move(&inv.Defaults, &first.Config)
			for i := range inv.Nodes {
				move(&inv.Nodes[i].Config, &nodeconfig.Config{})
			}
		}
		type c = nodeconfig.Config
		hoist(func(n *nodeconfig.Node) any { return n.Users }, func(to, from *c) { to.Users = from.Users })
		hoist(func(n *nodeconfig.Node) any { return n.Time }, func(to, from *c) { to.Time = from.Time })
		hoist(func(n *nodeconfig.Node) any { return n.Registries }, func(to, from *c) { to.Registries = from.Registries })
		hoist(func(n *nodeconfig.Node) any { return n.Files }, func(to, from *c) { to.Files = from.Files })
		hoist(func(n *nodeconfig.Node) any { return n.Sysctls }, func(to, from *c) { to.Sysctls = from.Sysctls })
		hoist(func(n *nodeconfig.Node) any { return n.Modules }, func(to, from *c) { to.Modules = from.Modules })
		hoist(func(n *nodeconfig.Node) any { return n.K3s.Token }, func(to, from *c) { to.K3s.Token = from.K3s.Token })
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Made by pikelet import of %s. docs/nodes.md tells every field; check it with\n#   pikelet node check FILE\n"+
		"# A machine takes the entry with its serial number or its mac: add one to each.\n", strings.Map(printable, source))
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(inv); err != nil {
		return nil, fmt.Errorf("encoding the inventory: %w", err)
	}
	return b.Bytes(), e.Close()
}

// printable keeps what a source says from steering the terminal that shows it.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return '?'
	}
	return r
}
