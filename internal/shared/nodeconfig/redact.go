package nodeconfig

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Redacted returns a copy of a config to show to people, in which shown stands for
// each secret. The copy is not checked.
func (c *Config) Redacted(shown func(secret string) string) (*Config, error) {
	b, err := c.Encode()
	if err != nil {
		return nil, err
	}
	copied := &Config{}
	if err := yaml.Unmarshal(b, copied); err != nil {
		return nil, err
	}
	for _, s := range copied.Secrets() {
		*s.Value = shown(*s.Value)
	}
	copied.Registries.Configs = maps.Clone(copied.Registries.Configs)
	for name, r := range copied.Registries.Configs { // maps hold copies
		for _, v := range []*string{&r.Auth.Password, &r.Auth.Auth, &r.Auth.IdentityToken} {
			if *v != "" {
				*v = shown(*v)
			}
		}
		copied.Registries.Configs[name] = r
	}
	for _, s := range c.Secrets() {
		if name, is := strings.CutPrefix(s.Field, "k3s.options."); is {
			copied.K3s.Options[name] = shown(*s.Value)
		}
	}
	return copied, nil
}

// shownDigest is how many bytes of a secret's digest are shown: enough to tell two
// apart.
const shownDigest = 6

// Compared returns the config as text to compare with another one, with digests in
// the place of secrets. They are made with a key that whoever compares chooses anew
// each time and shows to no one: without it, short passwords could be guessed from
// what is printed.
func (c *Config) Compared(key []byte) (string, error) {
	shown, err := c.Redacted(func(secret string) string {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(secret))
		return "(secret, digest " + hex.EncodeToString(h.Sum(nil)[:shownDigest]) + ")"
	})
	if err != nil {
		return "", err
	}
	b, err := shown.Encode()
	return strings.TrimPrefix(string(b), header), err
}
