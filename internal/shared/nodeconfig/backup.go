package nodeconfig

import "time"

// Backup says where a k3s server is backed up to, and when. Nodes that are no
// servers go without. The image needs the backup overlay.
type Backup struct {
	// To is where backups are kept: a directory such as /mnt/nas, which must be
	// there; sftp://USER@HOST/DIRECTORY, or s3://BUCKET/PREFIX. Default: nowhere; no
	// backups are made.
	To string `yaml:"to,omitempty"`
	// Endpoint is the address of a server of S3, such as https://nas.lan:9000.
	// Default: Amazon's.
	Endpoint string `yaml:"endpoint,omitempty"`
	// Region is that of the bucket. Default: us-east-1.
	Region string `yaml:"region,omitempty"`
	// CA is the file with the certificate of the endpoint's authority, such as
	// /etc/ssl/nas.pem, which can come from files. Default: those of the system.
	CA string `yaml:"ca,omitempty"`
	// AccessKey is the account at a server of S3. Required with s3://.
	AccessKey string `yaml:"access-key,omitempty"`
	// SecretKey goes with it. Secret. Required with s3://.
	SecretKey string `yaml:"secret-key,omitempty"`
	// SSHKey is a private key as ssh-keygen makes it, without a passphrase. Secret.
	// Required with sftp://.
	SSHKey string `yaml:"ssh-key,omitempty"`
	// HostKey is the public key of the server, such as ssh-ed25519 AAAA..., as
	// ssh-keyscan prints it behind the name. Required with sftp://.
	HostKey string `yaml:"host-key,omitempty"`
	// Recipients are the public keys of age that open the backups. Required.
	Recipients []string `yaml:"recipients,omitempty"`
	// Every is how often a backup is made, such as 6h. Either this or at is required.
	Every Duration `yaml:"every,omitempty"`
	// At is the time of day at which a backup is made, such as 03:00, in the node's
	// time zone. One that was missed is made when the node is up again.
	At string `yaml:"at,omitempty" jsonschema:"pattern=^[0-2][0-9]:[0-5][0-9]$"`
	// Keep says which of the node's backups are kept. Default: all.
	Keep Keep `yaml:"keep,omitempty"`
	// Lock is for how long no one can delete a backup, such as 30d, at a server of S3
	// with object lock. Default: not at all.
	Lock Duration `yaml:"lock,omitempty"`
	// MaxAge is how old the last good backup may be before the node warns of it.
	// Default: twice the time between two backups.
	MaxAge Duration `yaml:"max-age,omitempty"`
}

// Keep says which of a node's backups are kept, in the words of restic: the last
// ones, and the last one of each of so many days, weeks or months that have any, in
// UTC. The newest is always kept.
type Keep struct {
	// Last is how many of the last backups are kept.
	Last int `yaml:"last,omitempty" jsonschema:"minimum=0"`
	// Daily is of how many days the last backup is kept.
	Daily int `yaml:"daily,omitempty" jsonschema:"minimum=0"`
	// Weekly is of how many weeks the last backup is kept.
	Weekly int `yaml:"weekly,omitempty" jsonschema:"minimum=0"`
	// Monthly is of how many months the last backup is kept.
	Monthly int `yaml:"monthly,omitempty" jsonschema:"minimum=0"`
}

// Restore makes a node that has no k3s server yet the server of a backup. Once it is
// one, this changes nothing.
type Restore struct {
	// Name is the backup, in the store of backup.to, such as
	// attic-20261130T030000Z.backup.
	Name string `yaml:"name,omitempty"`
	// Key opens that backup and no other, as pikelet restore --for-config prints it.
	// Secret. Required with name.
	Key string `yaml:"key,omitempty"`
}

// Schedule says when backups are made.
type Schedule struct {
	Every time.Duration // 0: once a day
	At    int           // minutes after midnight
}

// Schedule returns when backups are made, of a config that is valid.
func (b Backup) Schedule() Schedule {
	at, _ := minutes(b.At)
	return Schedule{time.Duration(b.Every), at}
}

// Period returns the time between two backups.
func (s Schedule) Period() time.Duration {
	if s.Every > 0 {
		return s.Every
	}
	return 24 * time.Hour
}

// Next returns when the next backup is due, after one at last; the zero time is
// never. What lies before now is due at once.
func (s Schedule) Next(last, now time.Time) time.Time {
	switch {
	case last.IsZero() || last.After(now.Add(s.Period())): // the clock was wrong then
		return now
	case s.Every > 0:
		return last.Add(s.Every)
	}
	in := last.In(now.Location())
	next := time.Date(in.Year(), in.Month(), in.Day(), s.At/60, s.At%60, 0, 0, now.Location())
	if !next.After(last) {
		next = time.Date(in.Year(), in.Month(), in.Day()+1, s.At/60, s.At%60, 0, 0, now.Location())
	}
	return next
}

// OldAfter returns how old the last good backup may be.
func (b Backup) OldAfter() time.Duration {
	if b.MaxAge > 0 {
		return time.Duration(b.MaxAge)
	}
	return 2 * b.Schedule().Period()
}
