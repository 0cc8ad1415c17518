package nodeconfig

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// keyKinds are the kinds of public keys that dropbear knows, with the number of
// fields its key has after the name of the kind (RFC 4253 section 6.6, RFC 5656
// section 3.1, RFC 8709 section 4, OpenSSH's PROTOCOL.u2f).
var keyKinds = map[string]int{
	"ssh-ed25519": 1, "ssh-rsa": 2,
	"ecdsa-sha2-nistp256": 2, "ecdsa-sha2-nistp384": 2, "ecdsa-sha2-nistp521": 2,
	"sk-ssh-ed25519@openssh.com": 2, "sk-ecdsa-sha2-nistp256@openssh.com": 3,
}

// keyOptions are the options that dropbear knows; it refuses a key that has any
// other (src/svr-authpubkeyoptions.c; mkj/dropbear#212). Those that end in =
// want a value in quotes.
var keyOptions = []string{
	"no-port-forwarding", "no-agent-forwarding", "no-X11-forwarding", "no-pty", "restrict",
	"no-touch-required", "verify-required", "command=", "permitopen=",
}

// maxKeyLine is the longest line of authorized_keys that dropbear reads, in
// bytes (MAX_AUTHKEYS_LINE in src/svr-authpubkey.c).
const maxKeyLine = 4200

// checkKey returns what is wrong with one line of authorized_keys, as dropbear
// reads it: options, one blank, the kind, one blank, the key, and then anything.
// No account has a password, so a key that the server skips locks its owner out.
func checkKey(line string) error {
	const example = "want a public key such as ssh-ed25519 AAAA... you@desk"
	switch {
	case strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("the line contains a tab, a line end or another control character; want one key per entry, on one line")
	case strings.Contains(line, "PRIVATE KEY"):
		return errors.New("this is a private key; want the public one, from the file that ends in .pub")
	case len(line) > maxKeyLine:
		return fmt.Errorf("the line has %d bytes; the SSH server reads at most %d", len(line), maxKeyLine)
	}
	kind, rest, _ := strings.Cut(line, " ")
	if host, account, ok := strings.Cut(line, ":"); ok && account != "" && (host == "github" || host == "gitlab") {
		return fmt.Errorf("%q: names of accounts are unsupported, since whoever has the account could log in; "+
			"want the keys themselves, which https://%s.com/%s.keys lists", shorten(line), host, account)
	}
	if keyKinds[kind] == 0 {
		options, after, err := cutOptions(line)
		if err != nil {
			return err
		}
		kind, rest, _ = strings.Cut(after, " ")
		if keyKinds[kind] == 0 {
			if strings.TrimSpace(line) != line || strings.HasPrefix(after, " ") {
				return errors.New("there is a blank too many before the key; want exactly one between its parts")
			}
			return fmt.Errorf("%q: %s", shorten(line), example)
		}
		if err := checkOptions(options); err != nil {
			return err
		}
	}
	encoded, comment, _ := strings.Cut(rest, " ")
	if encoded == "" {
		return fmt.Errorf("want exactly one blank between %s and the key", kind)
	}
	if err := checkKeyBlob(kind, encoded); err != nil {
		return err
	}
	for _, word := range strings.Fields(comment) {
		if keyKinds[word] != 0 {
			return errors.New("there are two keys on one line, and the second would be ignored; want one key per entry")
		}
	}
	return nil
}

// cutOptions cuts the options from the beginning of a line: they end at the
// first blank that is not between quotes. dropbear takes a quote with a
// backslash in front for one of them here, and only here (checkpubkey_line in
// src/svr-authpubkey.c).
func cutOptions(line string) (options, rest string, err error) {
	quoted, escaped := false, false
	for i := 0; i < len(line); i++ {
		switch {
		case line[i] == '"':
			quoted = !quoted
			escaped = escaped || i > 0 && line[i-1] == '\\'
		case line[i] == ' ' && !quoted && escaped && strings.Contains(line[i:], `"`):
			return "", "", errors.New(`the options before the key have a blank between \" and \", ` +
				`where the SSH server ends them; want ' instead of \"`)
		case line[i] == ' ' && !quoted:
			return line[:i], line[i+1:], nil
		}
	}
	if quoted {
		return "", "", errors.New("the options before the key have a quote that is not closed")
	}
	return line, "", nil
}

func checkOptions(options string) error {
	for options != "" {
		i := slices.IndexFunc(keyOptions, func(o string) bool { return strings.HasPrefix(options, o) })
		if i < 0 {
			return fmt.Errorf("option %q before the key: the SSH server of the overlay ssh (dropbear) refuses keys with it; want one of %s",
				shorten(options), strings.Join(keyOptions, ", "))
		}
		options = options[len(keyOptions[i]):]
		if strings.HasSuffix(keyOptions[i], "=") {
			value, after, ok := quotedValue(options)
			if !ok || value == "" {
				return fmt.Errorf("option %s before the key: want a value in quotes", keyOptions[i])
			}
			options = after
		}
		after, more := strings.CutPrefix(options, ",")
		if !more && options != "" || more && after == "" {
			return fmt.Errorf("option %q before the key: want options with a comma between them", shorten(options))
		}
		options = after
	}
	return nil
}

// quotedValue cuts a value in quotes from the beginning of s.
func quotedValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		return "", "", false
	}
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return s[1:i], s[i+1:], true
		}
	}
	return "", "", false
}

// checkKeyBlob looks at the key itself: the name of its kind and as many fields
// as that has, each with its length in front, and nothing after them.
func checkKeyBlob(kind, encoded string) error {
	damaged := fmt.Errorf("the key after %s is damaged or cut off; copy the whole line from the file that ends in .pub", kind)
	b, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return damaged
	}
	var last []byte
	for i := range keyKinds[kind] + 1 {
		if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
			return damaged
		}
		n := 4 + int(binary.BigEndian.Uint32(b))
		last, b = b[4:n], b[n:]
		if i == 0 && string(last) != kind || len(last) == 0 {
			return damaged
		}
	}
	switch {
	case len(b) > 0 || kind == "ssh-ed25519" && len(last) != 32:
		return damaged
	case len(bytes.Trim(last, "\x00")) == 0:
		return errors.New("the placeholder of a new inventory, which lets no one log in; " +
			"put your own public key here, such as the line in ~/.ssh/id_ed25519.pub")
	}
	return nil
}
