package nodeconfig

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestBackupMistakes: R stands for recipients.
func TestBackupMistakes(t *testing.T) {
	const recipients = "recipients: [age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]"
	for _, m := range []mistake{
		{"backup: {to: nas, R, every: 6h}",
			"n.yaml:1: backup.to: invalid address of a store: \"nas\" is neither an absolute path nor a URL; want a directory"},
		{"backup: {R}",
			"n.yaml:1: backup.to: missing; want a directory such as /mnt/nas"},
		{"backup: {to: \"sftp://u:hunter22@h/x\", R, every: 6h}",
			"n.yaml:1: backup.to: invalid address of a store: it has a password, a query or a fragment, and takes none; want"},
		{"backup: {to: \"s3://bucket\", R, every: 6h}",
			"n.yaml:1: backup.access-key: missing; want the account that may read and write in the bucket"},
		{"backup: {to: \"s3://bucket\", access-key: a, R, every: 6h}",
			"n.yaml:1: backup.secret-key: missing; want the secret of access-key"},
		{"backup: {to: \"sftp://u@h/x\", ssh-key: k, R, every: 6h}",
			"n.yaml:1: backup.host-key: missing; want the server's public key, as ssh-keyscan prints it; no server is trusted at first sight"},
		{"backup: {to: /mnt/nas, secret-key: k, R, every: 6h}",
			"n.yaml:1: backup.secret-key: goes with an address of s3"},
		{"backup: {to: /mnt/nas, every: 6h}",
			"n.yaml:1: backup.recipients: missing; want the public keys that open the backups, as age-keygen prints them"},
		{"backup: {to: /mnt/nas, every: 6h, recipients: [AGE-SECRET-KEY-1AAAA]}",
			"n.yaml:1: backup.recipients[0]: this is a private key; want the public one, which begins with age1"},
		{"backup: {to: /mnt/nas, every: 6h, recipients: [anna]}",
			"n.yaml:1: backup.recipients[0]: \"anna\": want a public key such as age1..., as age-keygen prints it"},
		{"backup: {to: /mnt/nas, R}",
			"n.yaml:1: backup.every: missing; want a span of time such as 6h, or a time of day such as 03:00 as at"},
		{"backup: {to: /mnt/nas, R, every: 6h, at: \"03:00\"}",
			"n.yaml:1: backup.at: every says when; want one of the two"},
		{"backup: {to: /mnt/nas, R, every: 1s}",
			"n.yaml:1: backup.every: 1s is too often; want a span of time such as 6h"},
		{"backup: {to: /mnt/nas, R, at: \"27:00\"}",
			"n.yaml:1: backup.at: \"27:00\": want a time of day such as 03:00"},
		{"backup: {to: /mnt/nas, R, every: 6h, max-age: 1h}",
			"n.yaml:1: backup.max-age: 1h0m0s is less than the time between two backups"},
		{"backup: {to: /mnt/nas, R, every: 6h, lock: 30d}",
			"n.yaml:1: backup.lock: goes with an address of s3; other stores lock nothing"},
		{"backup: {to: /mnt/nas, R, every: 6h, keep: {last: -1}}",
			"n.yaml:1: backup.keep.last: -1: want 0 or more"},
		{"backup: {to: /mnt/nas, R, every: 6h, ca: nas.pem}",
			"n.yaml:1: backup.ca: \"nas.pem\": want the file with the certificate of the authority, such as /etc/ssl/nas.pem"},
		{"backup: {to: /mnt/nas, R, every: 6h, endpoint: nas}",
			"n.yaml:1: backup.endpoint: want an address such as https://nas.lan:9000"},
		{"restore: {key: x}",
			"n.yaml:1: restore.name: missing; want the name of a backup, as pikelet backups lists it"},
		{"restore: {name: x, key: y}",
			"n.yaml:1: restore.name: nothing says where it is; backup.to does"},
		{"backup: {to: /mnt/nas, R, every: 6h}\nrestore: {name: x, key: y}",
			"n.yaml:2: restore.name: \"x\": want the name of a backup, as pikelet backups lists it, such as attic-20261130T030000Z.backup"},
		{"backup: {to: /mnt/nas, R, every: 6h}\nrestore: {name: attic-20261130T030000Z.backup}",
			"n.yaml:2: restore.key: missing; pikelet restore --for-config prints it"},
		{"backup: {to: /mnt/nas, R, every: 6h}\nk3s: {role: agent, token: x, server: 'https://a:6443'}\n" +
			"restore: {name: attic-20261130T030000Z.backup, key: x}",
			"n.yaml:3: restore.name: the node is an agent; a backup is that of a server"},
	} {
		text := strings.NewReplacer("R,", recipients+",", "R}", recipients+"}").Replace(m.text)
		_, err := Parse("n.yaml", []byte(text))
		if err == nil || !strings.HasPrefix(err.Error(), m.want) || strings.Contains(err.Error(), "hunter22") {
			t.Errorf("%s\n got %v\nwant %s", m.text, err, m.want)
		}
	}
	twice := "k3s: {role: server}, backup: {to: /mnt/nas, " + recipients + ", every: 6h}, " +
		"restore: {name: attic-20261130T030000Z.backup, key: x}"
	_, err := Load("i.yaml", []byte("nodes:\n- {hostname: a, "+twice+"}\n- {hostname: b, "+twice+"}"), nil, false)
	if err == nil || !strings.Contains(err.Error(), "nodes[1].restore.name: nodes[0] has the backup") {
		t.Errorf("two servers of one backup: got error %v", err)
	}
}

// TestSchedule: when backups are due, over daylight saving time and a wrong clock.
func TestSchedule(t *testing.T) {
	vienna, err := time.LoadLocation("Europe/Vienna")
	if err != nil {
		t.Skip(err)
	}
	at := func(text string) time.Time {
		if text == "" {
			return time.Time{}
		}
		v, err := time.ParseInLocation("2006-01-02 15:04", text, vienna)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	six, night := Schedule{Every: 6 * time.Hour}, Backup{At: "03:00"}.Schedule()
	for _, c := range []struct {
		s               Schedule
		last, now, want string
	}{
		{six, "", "2026-11-30 10:00", "2026-11-30 10:00"},
		{six, "2026-11-30 09:00", "2026-11-30 10:00", "2026-11-30 15:00"},
		{six, "2030-11-30 09:00", "2026-11-30 10:00", "2026-11-30 10:00"},
		{night, "", "2026-11-30 10:00", "2026-11-30 10:00"},
		{night, "2026-11-30 03:00", "2026-11-30 10:00", "2026-12-01 03:00"},
		{night, "2026-11-30 02:59", "2026-11-30 10:00", "2026-11-30 03:00"},
		{night, "2026-11-27 03:00", "2026-11-30 10:00", "2026-11-28 03:00"},
		{night, "2026-10-24 03:00", "2026-10-25 02:00", "2026-10-25 03:00"},
	} {
		if got := c.s.Next(at(c.last), at(c.now)); !got.Equal(at(c.want)) {
			t.Errorf("%+v, last %s, at %s: got %v, want %s", c.s, c.last, c.now, got, c.want)
		}
	}
	if got := (Backup{At: "03:00"}).OldAfter(); got != 48*time.Hour {
		t.Errorf("got %v, want 48h", got)
	}
	for text, want := range map[string]string{"30d": "720h0m0s", "1d": "24h0m0s", "90m": "1h30m0s", "d": "", "-1d": "", "99999d": "",
		"1.5d": ""} {
		c, err := Parse("n.yaml", []byte("time: {wait: "+text+"}"))
		if got := fmt.Sprint(time.Duration(c.Time.Wait)); err == nil && got != want || err != nil && want != "" {
			t.Errorf("%s: got %s, %v, want %q", text, got, err, want)
		}
	}
}
