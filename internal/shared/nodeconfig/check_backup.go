package nodeconfig

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/backup/address"
)

// recipientForm is that of age's own public keys (https://age-encryption.org/v1).
var recipientForm = regexp.MustCompile(`^age1[a-z0-9]+$`)

// minEvery is how often backups may be made: each is a copy of the whole datastore.
const minEvery = time.Minute

func (c *checker) backup(field string, b Backup) {
	if b.To == "" {
		if b.AccessKey != "" || b.SecretKey != "" || b.SSHKey != "" || len(b.Recipients) > 0 || b.Every != 0 || b.At != "" {
			c.Add(field+".to", "missing; want a directory such as /mnt/nas, sftp://USER@HOST/DIRECTORY or s3://BUCKET/PREFIX")
		}
		return
	}
	kind, err := address.Check(b.To)
	if err != nil {
		c.Add(field+".to", "%v; want a directory such as /mnt/nas, sftp://USER@HOST/DIRECTORY or s3://BUCKET/PREFIX", err)
	}
	want := func(name, value string, secret bool, of address.Kind, what string) {
		switch {
		case kind == of && value == "" && !(secret && c.public):
			c.Add(field+"."+name, "missing; want %s", what)
		case err == nil && kind != of && value != "":
			c.Add(field+"."+name, "goes with an address of %s", of)
		}
	}
	want("access-key", b.AccessKey, true, address.S3, "the account that may read and write in the bucket")
	want("secret-key", b.SecretKey, true, address.S3, "the secret of access-key")
	want("ssh-key", b.SSHKey, true, address.SFTP, "a private key that the server knows")
	want("host-key", b.HostKey, false, address.SFTP, "the server's public key, as ssh-keyscan prints it; no server is trusted at first sight")
	if u, err := url.Parse(b.Endpoint); b.Endpoint != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" ||
		u.User != nil) {
		c.Add(field+".endpoint", "want an address such as https://nas.lan:9000")
	}
	if b.CA != "" && (!path.IsAbs(b.CA) || path.Clean(b.CA) != b.CA) {
		c.Add(field+".ca", "%q: want the file with the certificate of the authority, such as /etc/ssl/nas.pem", b.CA)
	}
	if len(b.Recipients) == 0 {
		c.Add(field+".recipients", "missing; want the public keys that open the backups, as age-keygen prints them")
	}
	for i, r := range b.Recipients {
		if strings.HasPrefix(r, "AGE-SECRET-KEY-") {
			c.Add(fmt.Sprintf("%s.recipients[%d]", field, i), "this is a private key; want the public one, which begins with age1")
		} else if !recipientForm.MatchString(r) {
			c.Add(fmt.Sprintf("%s.recipients[%d]", field, i), "%q: want a public key such as age1..., as age-keygen prints it", shorten(r))
		}
	}
	c.schedule(field, b)
	if b.Lock != 0 && err == nil && kind != address.S3 {
		c.Add(field+".lock", "goes with an address of s3; other stores lock nothing")
	}
	for name, n := range map[string]int{"last": b.Keep.Last, "daily": b.Keep.Daily, "weekly": b.Keep.Weekly, "monthly": b.Keep.Monthly} {
		if n < 0 {
			c.Add(field+".keep."+name, "%d: want 0 or more", n)
		}
	}
}

func (c *checker) schedule(field string, b Backup) {
	switch {
	case b.Every == 0 && b.At == "":
		c.Add(field+".every", "missing; want a span of time such as 6h, or a time of day such as 03:00 as at")
	case b.Every != 0 && b.At != "":
		c.Add(field+".at", "every says when; want one of the two")
	case b.Every != 0 && time.Duration(b.Every) < minEvery:
		c.Add(field+".every", "%v is too often; want a span of time such as 6h", time.Duration(b.Every))
	}
	if _, err := minutes(b.At); b.At != "" && err != nil {
		c.Add(field+".at", "%q: want a time of day such as 03:00", b.At)
	}
	if age := time.Duration(b.MaxAge); age != 0 && age < b.Schedule().Period() {
		c.Add(field+".max-age", "%v is less than the time between two backups", age)
	}
}

func (c *checker) restore(field string, cfg *Config) {
	r := cfg.Restore
	switch {
	case r == (Restore{}):
		return
	case r.Name == "":
		c.Add(field+".name", "missing; want the name of a backup, as pikelet backups lists it")
		return
	case cfg.K3s.Role == "agent":
		c.Add(field+".name", "the node is an agent; a backup is that of a server")
	case cfg.Backup.To == "":
		c.Add(field+".name", "nothing says where it is; backup.to does")
	}
	if _, _, ok := address.ParseName(r.Name); !ok {
		c.Add(field+".name", "%q: want the name of a backup, as pikelet backups lists it, such as attic-20261130T030000Z.backup", shorten(r.Name))
	}
	if r.Key == "" && !c.public {
		c.Add(field+".key", "missing; pikelet restore --for-config prints it")
	}
}
