package nodeconfig

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/yamlcheck"
)

// secretOptions are k3s' own options that hold secrets (docs/platform.md 7.2).
var secretOptions = []string{"etcd-s3-access-key", "etcd-s3-secret-key", "etcd-s3-session-token", "datastore-endpoint", "vpn-auth"}

// Secret is one secret of a config.
type Secret struct {
	Field string
	Value *string
}

// Secrets returns the fields of the config that hold secrets, to look at them
// or to change them. Secrets among k3s' options are returned as copies.
func (c *Config) Secrets() []Secret {
	var all []Secret
	add := func(field string, v *string) {
		if *v != "" {
			all = append(all, Secret{field, v})
		}
	}
	add("seed", &c.Seed)
	add("board-seed", &c.BoardSeed)
	for i := range c.Network.Wifi.Networks {
		add(fmt.Sprintf("network.wifi.networks[%d].password", i), &c.Network.Wifi.Networks[i].Password)
		add(fmt.Sprintf("network.wifi.networks[%d].eap.password", i), &c.Network.Wifi.Networks[i].EAP.Password)
	}
	add("k3s.token", &c.K3s.Token)
	add("k3s.agent-token", &c.K3s.AgentToken)
	for _, name := range secretOptions {
		if v, is := c.K3s.Options[name].(string); is {
			add("k3s.options."+name, &v)
		}
	}
	add("backup.secret-key", &c.Backup.SecretKey)
	add("backup.ssh-key", &c.Backup.SSHKey)
	add("restore.key", &c.Restore.Key)
	for _, name := range slices.Sorted(maps.Keys(c.Registries.Configs)) {
		auth := c.Registries.Configs[name].Auth
		at := "registries.configs." + name + ".auth."
		add(at+"password", &auth.Password)
		add(at+"auth", &auth.Auth)
		add(at+"identity_token", &auth.IdentityToken)
	}
	chap := func(field string, h *CHAP) {
		add(field+".password", &h.Password)
		add(field+".mutual-password", &h.MutualPassword)
	}
	for i := range c.ISCSI.Targets {
		chap(fmt.Sprintf("iscsi.targets[%d].chap", i), &c.ISCSI.Targets[i].CHAP)
	}
	for i := range c.ISCSI.Discovery {
		chap(fmt.Sprintf("iscsi.discovery[%d].chap", i), &c.ISCSI.Discovery[i].CHAP)
		if login := c.ISCSI.Discovery[i].Login; login != nil {
			chap(fmt.Sprintf("iscsi.discovery[%d].login", i), login)
		}
	}
	if c.Volume.Encryption != nil {
		add("volume.encryption.key", &c.Volume.Encryption.Key)
	}
	for i := range c.Files {
		if c.Files[i].Secret {
			add(fmt.Sprintf("files[%d].content", i), &c.Files[i].Content)
		}
	}
	return all
}

// Public returns an error that names every secret in the file: an image holds
// none, because whoever has the image has them, and every node has the image.
func (f *Document) Public() error {
	var found []string
	note := func(at string, c *Config) {
		for _, s := range c.Secrets() {
			found = append(found, at+s.Field)
		}
	}
	if f.Inventory == nil {
		cfg := &Config{}
		if f.top != nil {
			c := yamlcheck.New(f.file)
			if err := f.top.Decode(cfg); err != nil {
				c.Decoding(err)
				return c.Err()
			}
		}
		note("", cfg)
	} else {
		if f.Inventory.ClusterSecret != "" {
			found = append(found, "cluster-secret")
		}
		note("defaults.", &f.Inventory.Defaults)
		for i := range f.Inventory.Nodes {
			note(fmt.Sprintf("nodes[%d].", i), &f.Inventory.Nodes[i].Config)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return hint.With(fmt.Errorf("%s holds secrets (%s), and whoever has the image would have them", f.file, strings.Join(found, ", ")),
		"leave them out, and write them to the card of each node with its config")
}
