package nodeconfig

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/yamlcheck"
)

// Inventory holds the configs of a cluster's nodes.
type Inventory struct {
	// ClusterSecret is what seeds of nodes are made of: at least 32
	// random characters, such as openssl rand -hex 32 prints.
	// It stays on the desk. Secret. Default: nodes make seeds of their own.
	ClusterSecret string `yaml:"cluster-secret,omitempty"`
	// Defaults are for every node. What a node says itself counts instead:
	// maps are joined, lists and values replaced.
	Defaults Config `yaml:"defaults,omitempty"`
	// Nodes are the machines. A machine takes the first entry that fits it,
	// by serial rather than by MAC, by MAC rather than by board.
	Nodes []Node `yaml:"nodes" jsonschema:"required"`
}

// Node is the config of one machine, or of all of a board.
type Node struct {
	// Serial is the board's serial number, or its last eight digits.
	Serial string `yaml:"serial,omitempty" jsonschema:"pattern=^[0-9a-f]{8}([0-9a-f]{8})?$"`
	// MAC is the address of its network interface, as dc:a6:32:01:02:03.
	MAC string `yaml:"mac,omitempty" jsonschema:"pattern=^([0-9a-f]{2}:){5}[0-9a-f]{2}$"`
	// Board fits every machine of that board, such as rpi4.
	Board string `yaml:"board,omitempty"`

	Config `yaml:",inline"`
}

// Machine is what tells one machine from another.
type Machine struct {
	Serial string // 16 hexadecimal digits, or fewer; "" where there is none
	MAC    string // lower case, with colons
	Board  string // of package boards
	Name   string // asks for an entry by its hostname; "" for any
	// Unlisted has a machine that no entry fits take the defaults.
	Unlisted bool
}

// Document is a node config or an inventory, as it was read and checked.
type Document struct {
	Inventory *Inventory // nil for the config of a single node

	file     string
	public   bool
	top      *yaml.Node // of the document
	defaults *yaml.Node
	nodes    []*yaml.Node
}

// Load reads a node config or an inventory strictly, and checks every node's
// config as that node would get it. boards are the names a node may match by.
// public says that secrets reach nodes another way, so that missing ones are
// no mistake.
func Load(file string, b []byte, boards []string, public bool) (*Document, error) {
	f := &Document{file: file, public: public}
	var look yaml.Node
	err := yaml.Unmarshal(b, &look)
	if err != nil || len(look.Content) == 0 || child(look.Content[0], "nodes") == nil && child(look.Content[0], "defaults") == nil {
		c := &checker{yamlcheck.New(file), public}
		cfg := &Config{}
		top, ok := c.Decode(b, cfg)
		if !ok {
			return nil, c.Err()
		}
		f.top = top
		c.check(cfg)
		return f, c.Err()
	}
	f.Inventory = &Inventory{}
	c := &checker{yamlcheck.New(file), public}
	read := &inventoryFile{Inventory: f.Inventory}
	top, ok := c.Decode(b, read)
	for _, key := range slices.Sorted(maps.Keys(read.Rest)) {
		if !strings.HasPrefix(key, "x-") {
			c.Add(key, "there is no such field; is it misspelt or indented wrongly?")
		}
	}
	if !ok || c.Err() != nil {
		return nil, c.Err()
	}
	f.top, f.defaults = top, child(top, "defaults")
	if list := child(top, "nodes"); list != nil {
		f.nodes = list.Content
	}
	c.inventory(f, boards)
	return f, c.Err()
}

// inventoryFile is an inventory as it stands in a file: beside its fields, keys
// that begin with x- hold anything, for anchors of YAML.
type inventoryFile struct {
	*Inventory `yaml:",inline"`
	Rest       map[string]any `yaml:",inline"`
}

// child returns the value of a key of a mapping, or nil.
func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// merge lays one YAML value over another: mappings are joined, everything
// else is replaced. Neither is changed.
func merge(under, over *yaml.Node) *yaml.Node {
	under, over = resolve(under), resolve(over)
	if under == nil || over == nil || under.Kind != yaml.MappingNode || over.Kind != yaml.MappingNode {
		if over == nil {
			return under
		}
		return over
	}
	out := *over
	out.Content = nil
	for i := 0; i+1 < len(under.Content); i += 2 {
		key := under.Content[i]
		if v := child(over, key.Value); v != nil {
			out.Content = append(out.Content, key, merge(under.Content[i+1], v))
		} else {
			out.Content = append(out.Content, key, under.Content[i+1])
		}
	}
	for i := 0; i+1 < len(over.Content); i += 2 {
		if child(under, over.Content[i].Value) == nil {
			out.Content = append(out.Content, over.Content[i], over.Content[i+1])
		}
	}
	return &out
}

func resolve(n *yaml.Node) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

var (
	serialForm = regexp.MustCompile(`^[0-9a-f]{8}([0-9a-f]{8})?$`)
	macForm    = regexp.MustCompile(`^([0-9a-f]{2}:){5}[0-9a-f]{2}$`)
)

// minSecret is how many characters a cluster secret has at least: 128 bits in
// hexadecimal digits.
const minSecret = 32

// inventory looks at a whole inventory, and at each config as its node gets
// it.
func (c *checker) inventory(f *Document, boards []string) {
	inv := f.Inventory
	if s := inv.ClusterSecret; s != "" && len(s) < minSecret && !IsEncrypted(s) {
		c.Add("cluster-secret", "it has %d characters; want at least %d random ones, as openssl rand -hex 32 prints", len(s), minSecret)
	}
	if len(inv.Nodes) == 0 {
		c.Add("nodes", "none")
	}
	if inv.Defaults.Hostname != "" {
		c.Add("defaults.hostname", "a name is one node's own")
	}
	if inv.Defaults.Seed != "" {
		c.Add("defaults.seed", "a seed is one node's own")
	}
	if inv.Defaults.Generation != 0 || inv.Defaults.BoardSeed != "" {
		c.Add("defaults.generation", "a board is one node's own")
	}
	claims := map[string]string{}
	claim := func(field, what, value string) {
		if value == "" {
			return
		}
		if other, taken := claims[what+value]; taken {
			c.Add(field, "%s has %s %s already", other, what, value)
			return
		}
		claims[what+value] = field[:strings.IndexByte(field, ']')+1]
	}
	for i, n := range inv.Nodes {
		at := fmt.Sprintf("nodes[%d]", i)
		if n.Serial == "" && n.MAC == "" && n.Board == "" && n.Hostname == "" {
			c.Add(at, "nothing says which machine this is; give it a hostname, serial, mac or board")
		}
		if n.Serial != "" && !serialForm.MatchString(n.Serial) {
			c.Add(at+".serial", "%q: want 8 or 16 hexadecimal digits in lower case, as in /proc/cpuinfo", n.Serial)
		}
		if n.MAC != "" && !macForm.MatchString(n.MAC) {
			c.Add(at+".mac", "%q: want an address such as dc:a6:32:01:02:03", n.MAC)
		}
		if n.Board != "" && !slices.Contains(boards, n.Board) {
			c.Add(at+".board", "%q: want one of %s", n.Board, strings.Join(boards, ", "))
		}
		if n.Board != "" && n.Serial == "" && n.MAC == "" && n.Hostname != "" {
			c.Add(at+".hostname", "every %s would be called %s; match by serial or mac, or leave the name out", n.Board, n.Hostname)
		}
		claim(at+".hostname", "the name", n.Hostname)
		claim(at+".serial", "the serial", shortSerial(n.Serial))
		claim(at+".mac", "the address", n.MAC)
		if n.Serial == "" && n.MAC == "" {
			claim(at+".board", "the board", n.Board)
		}
		c.merged(f, i, claim)
	}
}

// merged checks what node i gets, with the lines of where it was written.
func (c *checker) merged(f *Document, i int, claim func(field, what, value string)) {
	whole := joined(f.defaults, strip(f.nodes[i]))
	if whole == nil {
		return
	}
	sub := &checker{yamlcheck.New(f.file), f.public}
	cfg := &Config{}
	if err := whole.Decode(cfg); err != nil {
		sub.Decoding(err)
	}
	sub.Index(whole)
	sub.check(cfg)
	c.Include(sub.Checker)
	at := fmt.Sprintf("nodes[%d]", i)
	claim(at+".iscsi.initiator", "the initiator", cfg.ISCSI.Initiator)
	for _, in := range cfg.Network.Interfaces {
		if in.Name == Loopback {
			continue // several nodes may answer for such an address
		}
		for _, a := range in.Addresses {
			address, _, _ := strings.Cut(a, "/")
			claim(at+".network", "the address", address)
		}
	}
	claim(at+".restore.name", "the backup", cfg.Restore.Name) // two servers of one cluster would destroy it
	if cfg.K3s.beginsCluster() {
		claim(at+".k3s.options.cluster-init", "the cluster begun by cluster-init; others join it:", "server")
	}
	if cfg.Volume.Place() == OnISCSI {
		if t, err := cfg.VolumeTarget(); err == nil {
			claim(at+".volume", "the volume", fmt.Sprintf("%s, LUN %d: a filesystem has one owner, and two would destroy it", t.Name,
				cfg.Volume.LUN))
		}
		if f.Inventory.Nodes[i].Serial == "" && f.Inventory.Nodes[i].MAC == "" && f.Inventory.Nodes[i].Board != "" {
			c.Add(at+".volume", "every %s would take this LUN, and two would destroy it; match by serial or mac", f.Inventory.Nodes[i].Board)
		}
	}
}

// strip returns an entry without what only says which machine it is for.
func strip(n *yaml.Node) *yaml.Node {
	n = resolve(n)
	if n == nil || n.Kind != yaml.MappingNode {
		return n
	}
	out := *n
	out.Content = nil
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !slices.Contains([]string{"serial", "mac", "board"}, n.Content[i].Value) {
			out.Content = append(out.Content, n.Content[i], n.Content[i+1])
		}
	}
	return &out
}

// shortSerial returns the last eight digits, which tell boards apart
// (docs/platform.md 4).
func shortSerial(s string) string {
	if len(s) > 8 {
		return s[len(s)-8:]
	}
	return s
}

// Find returns which entry a machine takes.
func (f *Document) Find(m Machine) (int, error) {
	if f.Inventory == nil {
		return 0, nil
	}
	best, rank := -1, 0
	for i, n := range f.Inventory.Nodes {
		if m.Name != "" {
			if n.Hostname == m.Name {
				return i, nil
			}
			continue
		}
		fits := 0
		switch {
		case n.Serial != "" && m.Serial != "" && (n.Serial == m.Serial || len(n.Serial) == 8 && n.Serial == shortSerial(m.Serial)):
			fits = 3
		case n.MAC != "" && n.MAC == m.MAC:
			fits = 2
		case n.Serial == "" && n.MAC == "" && n.Board != "" && n.Board == m.Board:
			fits = 1
		}
		if fits > rank {
			best, rank = i, fits
		}
	}
	if best >= 0 {
		return best, nil
	}
	var names []string
	for _, n := range f.Inventory.Nodes {
		if n.Hostname != "" {
			names = append(names, n.Hostname)
		}
	}
	if m.Name != "" {
		return 0, fmt.Errorf("%s: it has no node %q; it has %s", f.file, m.Name, strings.Join(names, ", "))
	}
	return 0, fmt.Errorf("%s: no node of it fits serial %q, MAC %q, board %q", f.file, m.Serial, m.MAC, m.Board)
}

// For returns the config of one machine, in full: defaults and its own
// together. decrypt turns what begins with age: into what it stands for; nil
// leaves it, for looking at. With a cluster secret, the node's seed is made
// of it; name is what the node is called where its config does not say.
func (f *Document) For(m Machine, name string, decrypt func(string) (string, error)) (*Config, error) {
	i, err := f.Find(m)
	if err != nil && !m.Unlisted {
		return nil, err
	}
	whole := f.top
	switch {
	case err != nil:
		whole = joined(f.defaults, nil)
	case f.Inventory != nil:
		whole = joined(f.defaults, strip(f.nodes[i]))
	}
	cfg := &Config{}
	if whole == nil {
		return cfg, nil
	}
	if whole, err = decrypted(whole, decrypt); err != nil {
		return nil, fmt.Errorf("%s: %w", f.file, err)
	}
	c := &checker{yamlcheck.New(f.file), f.public}
	if err := whole.Decode(cfg); err != nil {
		c.Decoding(err)
		return nil, c.Err()
	}
	if cfg.Hostname != "" {
		name = cfg.Hostname
	}
	if f.Inventory != nil && f.Inventory.ClusterSecret != "" && cfg.Seed == "" && decrypt != nil && name != "" {
		secret := f.Inventory.ClusterSecret
		if IsEncrypted(secret) {
			if secret, err = decrypt(secret); err != nil {
				return nil, fmt.Errorf("%s: cluster-secret: %w", f.file, err)
			}
		}
		if len(secret) < minSecret {
			return nil, fmt.Errorf("%s: cluster-secret: it has %d characters; want at least %d random ones, as openssl rand -hex 32 prints",
				f.file, len(secret), minSecret)
		}
		if cfg.Seed, err = SeedOf(secret, name); err != nil {
			return nil, err
		}
		if cfg.Generation > 0 && cfg.BoardSeed == "" {
			if cfg.BoardSeed, err = BoardSeedOf(secret, name, cfg.Generation); err != nil {
				return nil, err
			}
		}
	}
	c.Index(whole)
	c.check(cfg)
	return cfg, c.Err()
}

// seedSize is the length of a seed in bytes.
const seedSize = 32

// SeedOf makes the seed of one node of the cluster's secret. Who has the seed
// of one node learns nothing of the secret, nor of another's seed.
func SeedOf(secret, name string) (string, error) {
	b, err := hkdf.Key(sha256.New, []byte(secret), nil, "pikelet node seed, version 1: "+name, seedSize)
	if err != nil {
		return "", fmt.Errorf("making the seed of %s: %w", name, err)
	}
	return hex.EncodeToString(b), nil
}

// BoardSeedOf makes the seed of one board of a node of the cluster's secret. Boards
// that were the node before do not know it.
func BoardSeedOf(secret, name string, generation int) (string, error) {
	what := fmt.Sprintf("pikelet board seed, version 1: %s, generation %d", name, generation)
	b, err := hkdf.Key(sha256.New, []byte(secret), nil, what, seedSize)
	if err != nil {
		return "", fmt.Errorf("making the board seed of %s: %w", name, err)
	}
	return hex.EncodeToString(b), nil
}

// decrypted returns a copy of n with every text that begins with age:
// replaced by what it stands for.
func decrypted(n *yaml.Node, decrypt func(string) (string, error)) (*yaml.Node, error) {
	n = resolve(n)
	if n == nil || decrypt == nil {
		return n, nil
	}
	out := *n
	if n.Kind == yaml.ScalarNode && IsEncrypted(n.Value) {
		text, err := decrypt(n.Value)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n.Line, err)
		}
		out.Value, out.Tag, out.Style = text, "!!str", yaml.DoubleQuotedStyle
		return &out, nil
	}
	out.Content = nil
	for _, e := range n.Content {
		d, err := decrypted(e, decrypt)
		if err != nil {
			return nil, err
		}
		out.Content = append(out.Content, d)
	}
	return &out, nil
}
