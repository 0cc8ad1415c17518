// Package nodeconfig is the node config: the YAML that makes one machine itself,
// and the inventory that holds those of a whole cluster. It is read on the
// desk, which checks it and hands each node its own, and on the node.
package nodeconfig

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/yamlcheck"
)

// Config is what makes one machine itself. Everything in it is optional; a
// node without any takes a name from its serial number, an address from DHCP,
// and lets in only the users of its image.
type Config struct {
	// Hostname is the node's name, in the cluster too: lower-case letters,
	// digits and dashes, at most 63. Default: the image's stream and the last
	// eight digits of the serial number.
	Hostname string `yaml:"hostname,omitempty" jsonschema:"pattern=^[a-z0-9]([a-z0-9-]{0\\,61}[a-z0-9])?$"`
	// Seed is 64 hexadecimal digits from which the node derives its machine
	// id, SSH host keys, IQN and k3s node password. pikelet makes it of the
	// inventory's cluster secret. Default: the node makes one and keeps it on
	// state.
	Seed string `yaml:"seed,omitempty" jsonschema:"pattern=^[0-9a-f]{64}$"`
	// Generation counts the boards that were the node before this one. A board whose
	// config has a lower one is refused by the volume, where that is a disk or a LUN.
	// pikelet node replace raises it. Default: 0.
	Generation int `yaml:"generation,omitempty" jsonschema:"minimum=0,maximum=1000"`
	// BoardSeed is 64 hexadecimal digits from which a board with a generation
	// derives its k3s node password, instead of seed: the boards before it know that
	// one. pikelet makes it of the inventory's cluster secret.
	BoardSeed string `yaml:"board-seed,omitempty" jsonschema:"pattern=^[0-9a-f]{64}$"`
	// Users may log in over SSH, by key only.
	Users []User `yaml:"users,omitempty"`
	// Console opts into a console without a password: root. Default: the
	// console asks for a login that no account has a password for.
	Console string `yaml:"console,omitempty" jsonschema:"enum=root"`
	// Network says how the node reaches others. Default: DHCP on eth0.
	Network Network `yaml:"network,omitempty"`
	// Time is the time zone, and where the time comes from.
	Time Time `yaml:"time,omitempty"`
	// K3s is the node's part in the cluster. Default: none; k3s is not
	// started.
	K3s K3s `yaml:"k3s,omitempty"`
	// Registries say where container images come from.
	Registries Registries `yaml:"registries,omitempty"`
	// ISCSI are the targets the node logs in to.
	ISCSI ISCSI `yaml:"iscsi,omitempty"`
	// Volume is where k3s and pods keep their data. Default: on state.
	Volume Volume `yaml:"volume,omitempty"`
	// Upgrades reports whether the node looks for new releases by itself.
	Upgrades Upgrades `yaml:"upgrades,omitempty"`
	// Datastore says how a k3s server keeps its datastore over an upgrade.
	Datastore Datastore `yaml:"datastore,omitempty"`
	// Backup says where a k3s server is backed up to, and when.
	Backup Backup `yaml:"backup,omitempty"`
	// Restore makes a node that has no k3s server yet the server of a backup.
	Restore Restore `yaml:"restore,omitempty"`
	// Logs says where system logs are: memory, or state, which wears the card.
	// Those of pods are on the volume. Default: memory.
	Logs string `yaml:"logs,omitempty" jsonschema:"enum=memory,enum=state"`
	// Files are written on each boot, below /etc, /var, /root and /home; those
	// below what is on the volume, such as k3s' own manifests, when it is
	// mounted.
	Files []File `yaml:"files,omitempty"`
	// Sysctls are kernel settings, set on each boot.
	Sysctls map[string]string `yaml:"sysctls,omitempty"`
	// Modules are kernel modules, loaded on each boot.
	Modules []string `yaml:"modules,omitempty"`
}

// Upgrades reports whether the node looks for new releases by itself. What
// registries says of a registry counts for these too.
type Upgrades struct {
	// Poll is how often the channel is asked, such as 6h; nodes do so at
	// different moments. Default: never.
	Poll Duration `yaml:"poll,omitempty"`
	// Channel is the reference that is watched, such as
	// registry.example/homelab:stable. Default: the image's own channel.
	Channel string `yaml:"channel,omitempty"`
	// Window is the time of day in which a new release is tried, such as
	// 02:00-05:00, in the node's time zone; it is fetched before. Default: at
	// once.
	Window string `yaml:"window,omitempty" jsonschema:"pattern=^[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9]$"`
	// PlainHTTP speaks HTTP without TLS to the registry. Default: false.
	PlainHTTP bool `yaml:"plain-http,omitempty"`
}

// What becomes of a datastore when a release with another k3s is left.
const (
	OnLeftRestore = "restore"
	OnLeftKeep    = "keep"
)

// Datastore says how a k3s server keeps its datastore over an upgrade: a copy
// is made just before the node restarts into a new release.
type Datastore struct {
	// Copies is how many are kept, 1 to 20. Default: 3.
	Copies int `yaml:"copies,omitempty" jsonschema:"minimum=1,maximum=20"`
	// OnLeft says what becomes of it when a release with another minor version
	// of k3s is left: restore puts the copy back, and what was written since
	// aside; keep goes on with it as it is. Default: restore.
	OnLeft string `yaml:"onLeft,omitempty" jsonschema:"enum=restore,enum=keep"`
}

// User may log in over SSH.
type User struct {
	// Name is the account: root, or a new one. Required.
	Name string `yaml:"name" jsonschema:"required,pattern=^[a-z_][a-z0-9_-]{0\\,31}$"`
	// Keys are public keys that may log in, as in authorized_keys. Required.
	Keys []string `yaml:"keys" jsonschema:"required"`
	// Admin lets the user run pikeletd's verbs through doas. One of them takes a
	// config, which may hold anything: an admin is as good as root. Default:
	// false.
	Admin bool `yaml:"admin,omitempty"`
}

// Time is the time zone, and where the time comes from.
type Time struct {
	// Zone is the time zone, such as Europe/Berlin; the image needs tzdata.
	// Default: UTC.
	Zone string `yaml:"zone,omitempty"`
	// Servers are NTP servers. Default: pool.ntp.org.
	Servers []string `yaml:"servers,omitempty"`
	// Wait is how long k3s waits for the right time before it starts all the
	// same. Default: 120s.
	Wait Duration `yaml:"wait,omitempty"`
}

// K3s is the node's part in the cluster.
type K3s struct {
	// Role is server or agent. Default: none; k3s is not started.
	Role string `yaml:"role,omitempty" jsonschema:"enum=server,enum=agent"`
	// Server is the address of a server to join, such as
	// https://10.0.0.10:6443. Agents need one; a server without one begins a
	// cluster.
	Server string `yaml:"server,omitempty"`
	// Token lets nodes join. Secret. Agents need one.
	Token string `yaml:"token,omitempty"`
	// AgentToken lets agents join, and no servers. Secret.
	AgentToken string `yaml:"agent-token,omitempty"`
	// Labels are given to the node; one that is left out later is taken away.
	Labels map[string]string `yaml:"labels,omitempty"`
	// Taints are given to the node when it registers, as KEY=VALUE:EFFECT. A
	// server changes its own later; an agent may not, and pikeletd status names
	// the command that does.
	Taints []string `yaml:"taints,omitempty"`
	// Options are any others of k3s, as in its own config file, such as
	// flannel-backend: host-gw. A name with + at its end adds to a list. yes,
	// no, on and off are true and false, as in that file; a number such as 0640
	// stays the text it is. Those of an inventory's defaults that only servers
	// take do not reach agents.
	Options Options `yaml:"options,omitempty"`
	// ShutdownGrace is how long pods get to end after SIGTERM when the node
	// stops, restarts or is upgraded: 10m at most. Default: 30s.
	ShutdownGrace Duration `yaml:"shutdown-grace,omitempty"`
}

// Registries say where container images come from, as in k3s' own
// registries.yaml.
type Registries struct {
	// Mirrors are asked instead of a registry, by its name; "*" is every one.
	Mirrors map[string]Mirror `yaml:"mirrors,omitempty"`
	// Configs say how a registry or mirror is talked to, by its name.
	Configs map[string]Registry `yaml:"configs,omitempty"`
}

// Mirror is asked instead of a registry.
type Mirror struct {
	// Endpoint are addresses, asked in this order.
	Endpoint []string `yaml:"endpoint,omitempty"`
	// Rewrite changes names of images, from a regular expression to its
	// replacement.
	Rewrite map[string]string `yaml:"rewrite,omitempty"`
}

// Registry says how a registry is talked to.
type Registry struct {
	// Auth is who asks.
	Auth RegistryAuth `yaml:"auth,omitempty"`
	// TLS says whom to trust.
	TLS RegistryTLS `yaml:"tls,omitempty"`
}

// RegistryAuth is who asks a registry.
type RegistryAuth struct {
	// Username is the account.
	Username string `yaml:"username,omitempty"`
	// Password goes with it. Secret.
	Password string `yaml:"password,omitempty"`
	// Auth is base64 of USERNAME:PASSWORD. Secret.
	Auth string `yaml:"auth,omitempty"`
	// IdentityToken is what the registry gave for a refresh token, such as docker
	// login stores. Secret.
	IdentityToken string `yaml:"identity_token,omitempty"`
}

// RegistryTLS says whom to trust. Files can come from files.
type RegistryTLS struct {
	// CAFile is the certificate of the authority.
	CAFile string `yaml:"ca_file,omitempty"`
	// CertFile is the node's own certificate.
	CertFile string `yaml:"cert_file,omitempty"`
	// KeyFile is the key to it.
	KeyFile string `yaml:"key_file,omitempty"`
	// InsecureSkipVerify trusts anybody. Default: false.
	InsecureSkipVerify bool `yaml:"insecure_skip_verify,omitempty"`
}

// ISCSI are the targets the node logs in to. The image needs the iscsi
// overlay.
type ISCSI struct {
	// Initiator is the node's IQN. Default: one made of its name and seed,
	// which pikelet node show tells.
	Initiator string `yaml:"initiator,omitempty"`
	// Targets are logged in to before k3s starts.
	Targets []Target `yaml:"targets,omitempty"`
	// Discovery asks portals which targets they have, and logs in to all.
	Discovery []Discovery `yaml:"discovery,omitempty"`
}

// Target is one iSCSI target.
type Target struct {
	// Name is the target's IQN. Required.
	Name string `yaml:"name" jsonschema:"required"`
	// Portals are its addresses, as 10.0.0.5 or 10.0.0.5:3260; the first that
	// answers is used. Required.
	Portals []string `yaml:"portals" jsonschema:"required"`
	// CHAP is who logs in.
	CHAP CHAP `yaml:"chap,omitempty"`
}

// Discovery asks a portal which targets it has.
type Discovery struct {
	// Portal is the address, as 10.0.0.5 or 10.0.0.5:3260. Required.
	Portal string `yaml:"portal" jsonschema:"required"`
	// CHAP is who asks.
	CHAP CHAP `yaml:"chap,omitempty"`
	// Login is who logs in to what is found. Default: chap; {} logs in to targets
	// that want no name.
	Login *CHAP `yaml:"login,omitempty"`
}

// LoginCHAP returns who logs in to what is found.
func (d Discovery) LoginCHAP() CHAP {
	if d.Login != nil {
		return *d.Login
	}
	return d.CHAP
}

// CHAP is who logs in to a target, and whom the target must be.
type CHAP struct {
	// User is the name the target knows the node by.
	User string `yaml:"user,omitempty"`
	// Password is 12 to 16 characters for most targets. Secret.
	Password string `yaml:"password,omitempty"`
	// MutualUser is the name the target answers with.
	MutualUser string `yaml:"mutual-user,omitempty"`
	// MutualPassword goes with it. Secret.
	MutualPassword string `yaml:"mutual-password,omitempty"`
}

// Places a volume can be.
const (
	OnState  = "state"
	OnMemory = "memory"
	OnDisk   = "disk"
	OnISCSI  = "iscsi"
)

// FormatBlank is the value of Volume.Format that lets a node format a disk
// that holds nothing.
const FormatBlank = "blank"

// Volume is where k3s and pods keep their data.
type Volume struct {
	// On is state (the card), memory, disk (USB, NVMe) or iscsi. Default:
	// state.
	On string `yaml:"on,omitempty" jsonschema:"enum=state,enum=memory,enum=disk,enum=iscsi"`
	// Device is the disk or partition, such as /dev/nvme0n1; its name in
	// /dev/disk/by-id; or LABEL=... or UUID=... of its ext4. Required with on:
	// disk.
	Device string `yaml:"device,omitempty"`
	// Target is the IQN of one of iscsi.targets. Default: the only one there
	// is.
	Target string `yaml:"target,omitempty"`
	// LUN is the number of the disk at the target. Default: 0.
	LUN int `yaml:"lun,omitempty" jsonschema:"minimum=0,maximum=16383"`
	// Format lets the node make a filesystem where there is nothing yet:
	// blank. Default: it never does.
	Format string `yaml:"format,omitempty" jsonschema:"enum=blank"`
	// Size limits a volume in memory, such as 512MiB. Default: half of it.
	Size string `yaml:"size,omitempty" jsonschema:"pattern=^[1-9][0-9]*(MiB|GiB)$"`
	// Encryption encrypts the disk with LUKS2; it goes with on: disk and on:
	// iscsi, and the image needs the overlay luks. Default: no encryption.
	Encryption *Encryption `yaml:"encryption,omitempty"`
}

// Where the key of an encrypted volume comes from.
const (
	KeyInConfig   = "key"
	KeyOfBoard    = "board"
	KeyPassphrase = "passphrase"
)

// Encryption says what opens an encrypted volume.
type Encryption struct {
	// By is what opens it: key (the one below), board (the secret in the Pi's
	// OTP memory) or passphrase (typed, by pikelet unlock). Default: key.
	By string `yaml:"by,omitempty" jsonschema:"enum=key,enum=board,enum=passphrase"`
	// Key is 64 hexadecimal digits, as openssl rand -hex 32 makes them; each
	// node has its own. Secret.
	Key string `yaml:"key,omitempty"`
}

// Source returns where the key comes from.
func (e Encryption) Source() string {
	if e.By == "" {
		return KeyInConfig
	}
	return e.By
}

// Place returns where the volume is.
func (v Volume) Place() string {
	if v.On == "" {
		return OnState
	}
	return v.On
}

// File is written on each boot.
type File struct {
	// Path is where. Required: below /etc, /var, /root or /home.
	Path string `yaml:"path" jsonschema:"required"`
	// Content is what is in it.
	Content string `yaml:"content,omitempty"`
	// Secret keeps what is in it to the owner: 0600, and never part of an
	// image.
	Secret bool `yaml:"secret,omitempty"`
	// Mode is the permissions, such as "0755". Default: 0644, or 0600 where
	// secret.
	Mode string `yaml:"mode,omitempty" jsonschema:"pattern=^0[0-7]{3}$"`
	// Owner is the user it belongs to. Default: root.
	Owner string `yaml:"owner,omitempty"`
}

// Duration is a span of time, written as 60s, 10m or 30d.
type Duration time.Duration

// UnmarshalYAML reads a duration.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if days, is := strings.CutSuffix(n.Value, "d"); is {
		var count uint64
		count, err = strconv.ParseUint(days, 10, 16)
		v = time.Duration(count) * 24 * time.Hour
	}
	if err != nil || v < 0 {
		return yamlcheck.TypeError(n, "%q: invalid duration; want one such as 60s or 10m", n.Value)
	}
	*d = Duration(v)
	return nil
}

// MarshalYAML writes a duration.
func (d Duration) MarshalYAML() (any, error) { return time.Duration(d).String(), nil }

// MaxSize is how large a node's config may be in bytes: the file on the
// control partition that carries it.
const MaxSize = 64 << 10

// Encode returns the config as a node gets it.
func (c *Config) Encode() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(header)
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(c); err != nil {
		return nil, fmt.Errorf("encoding a node config: %w", err)
	}
	if b.Len() > MaxSize {
		return nil, fmt.Errorf("encoding a node config: it has %d bytes, and the card has room for %d; leave out files, or bring "+
			"them in a layer", b.Len(), MaxSize)
	}
	return b.Bytes(), nil
}

const header = "# The config of one node, made by pikelet.\n"

// Taken is what a node leaves on its card in place of a config it took: so
// that who looks there knows where it went.
const Taken = "# The node has taken the config that was here, and keeps it on its state\n" +
	"# partition. To change it, write a new one over this file. The file must keep\n" +
	"# its length: pikelet node write does that.\n"

// Blank reports whether a file for a config holds none: blanks, zeros and
// comments only.
func Blank(b []byte) bool {
	for _, line := range strings.Split(strings.Trim(string(b), "\x00"), "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

// Parse reads a node's config strictly, on the desk and on the node. Its
// error is a *yamlcheck.Error with all mistakes.
func Parse(file string, b []byte) (*Config, error) {
	c := &checker{yamlcheck.New(file), false}
	cfg := &Config{}
	if len(b) > MaxSize {
		c.Add("size", "%d bytes; a node takes %d at most", len(b), MaxSize)
		return nil, c.Err()
	}
	if _, ok := c.Decode(bytes.TrimRight(b, "\x00"), cfg); ok {
		c.check(cfg)
	}
	return cfg, c.Err()
}
