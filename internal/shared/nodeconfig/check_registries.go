package nodeconfig

import (
	"encoding/base64"
	"strings"
)

// registryAuth looks at who asks a registry, which github.com/rancher/wharfie
// reads for k3s: it knows username, password, auth and identity_token, and skips
// everything else.
func (c *checker) registryAuth(field string, a RegistryAuth) {
	ways := 0
	for _, set := range []bool{a.Username != "" || a.Password != "", a.Auth != "", a.IdentityToken != ""} {
		if set {
			ways++
		}
	}
	switch {
	case ways > 1:
		c.Add(field, "want username and password, or auth, or identity_token; only one of them is used")
	case a.Password != "" && a.Username == "":
		c.Add(field+".username", "missing; a password needs one")
	case a.Username != "" && a.Password == "" && !c.public:
		c.Add(field+".password", "missing; a username needs one")
	}
	if a.Auth != "" && !IsEncrypted(a.Auth) {
		b, err := base64.StdEncoding.DecodeString(a.Auth)
		if err != nil || !strings.Contains(string(b), ":") {
			c.Add(field+".auth", "want base64 of USERNAME:PASSWORD")
		}
	}
}
