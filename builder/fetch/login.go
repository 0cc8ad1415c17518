package fetch

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Login is what a server is told that asks who is there.
type Login struct{ User, Password string }

// Logins are logins by host, or host:port, which counts first. That of "" is for
// every other host.
type Logins map[string]Login

// find returns the login for an address.
func (l Logins) find(u *url.URL) (Login, bool) {
	for _, host := range []string{u.Host, u.Hostname(), ""} {
		if login, ok := l[host]; ok {
			return login, true
		}
	}
	return Login{}, false
}

// ParseNetrc reads logins as curl and others keep them in ~/.netrc: machine HOST
// login USER password PASSWORD. Macros are passed over. No error quotes what may
// be a password.
func ParseNetrc(b []byte) (Logins, error) {
	list := Logins{}
	host, within := "", false
	macro := false
	for n, line := range strings.Split(string(b), "\n") {
		if line = strings.TrimSpace(line); line == "" {
			macro = false // an empty line ends one
		}
		if macro || strings.HasPrefix(line, "#") {
			continue
		}
		words, err := netrcWords(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
		for len(words) > 0 {
			key := words[0]
			words = words[1:]
			switch key {
			case "default":
				host, within = "", true
				list[""] = Login{}
				continue
			case "macdef":
				macro, words = true, nil
				continue
			case "machine", "login", "password", "account":
			default:
				return nil, fmt.Errorf("line %d: want machine, default, login, password, account or macdef", n+1)
			}
			if len(words) == 0 || key != "machine" && !within {
				return nil, fmt.Errorf("line %d: %s: want machine HOST login USER password PASSWORD", n+1, key)
			}
			login := list[host]
			switch key {
			case "machine":
				host, within = words[0], true
				login = list[host]
			case "login":
				login.User = words[0]
			case "password":
				login.Password = words[0]
			}
			list[host], words = login, words[1:]
		}
	}
	return list, nil
}

// netrcWords splits a line at blanks; words in quotes may have them.
func netrcWords(line string) ([]string, error) {
	var words []string
	for line != "" {
		if line[0] != '"' {
			word, rest, _ := strings.Cut(line, " ")
			if i := strings.IndexByte(word, '\t'); i >= 0 {
				word, rest = line[:i], line[i+1:]
			}
			words, line = append(words, word), strings.TrimSpace(rest)
			continue
		}
		var word strings.Builder
		i := 1
		for ; i < len(line) && line[i] != '"'; i++ {
			if line[i] == '\\' && i+1 < len(line) {
				i++
			}
			word.WriteByte(line[i])
		}
		if i >= len(line) {
			return nil, errors.New("unterminated quote")
		}
		words, line = append(words, word.String()), strings.TrimSpace(line[i+1:])
	}
	return words, nil
}

// netrcAdvice is how to give the login for a host.
const netrcAdvice = "put a line into ~/.netrc, or the file that $NETRC names: machine %s login USER password PASSWORD"

// loginInAddress is the error for an address with a login in it, which would get
// into locks, logs and errors. It does not quote the address.
func loginInAddress(host string) error {
	return hint.With(errors.New("the address holds a user name or a password, which would get into locks and logs"),
		"leave it out of the address, and "+fmt.Sprintf(netrcAdvice, host))
}

// hasLogin reports whether an address has a user name or a password in it, even
// one that cannot be read otherwise, and the host behind it.
func hasLogin(address string) (host string, has bool) {
	_, rest, ok := strings.Cut(address, "://")
	if !ok {
		return "", false
	}
	authority, _, _ := strings.Cut(rest, "/")
	i := strings.LastIndex(authority, "@")
	if i < 0 && strings.Contains(rest, "@") && !hasPort(authority) {
		// A password with a slash in it: what precedes it is not a port.
		authority, _, _ = strings.Cut(rest[strings.LastIndex(rest, "@"):], "/")
		i = 0
	}
	return authority[i+1:], i >= 0
}

// hasPort reports whether an authority has a number where it may have a port, or
// nothing there at all.
func hasPort(authority string) bool {
	_, port, ok := strings.Cut(authority[strings.LastIndexByte(authority, ']')+1:], ":")
	return !ok || port != "" && strings.Trim(port, "0123456789") == ""
}

// CheckAddress returns an error for an address that cannot name a repository of
// packages for an architecture: one that is neither an http(s) address nor a
// directory. A directory that exists need not be checked. Nothing is asked of the
// network.
func CheckAddress(address, arch string) error {
	if host, has := hasLogin(address); has {
		return loginInAddress(host)
	}
	if tag, rest, ok := strings.Cut(address, " "); ok && strings.HasPrefix(tag, "@") {
		return hint.Withf(fmt.Errorf("%q is a line of /etc/apk/repositories", address),
			"write it as two fields, url: %s and tag: %s", strings.TrimSpace(rest), tag[1:])
	}
	scheme, rest, ok := strings.Cut(address, ":/")
	switch {
	case ok && strings.EqualFold(scheme, "file"):
		return hint.Withf(fmt.Errorf("unsupported address %q", address),
			"write the directory alone: /%s", strings.TrimLeft(rest, "/"))
	case ok && (!IsRemote(address)) && !strings.ContainsAny(scheme, "/."):
		return fmt.Errorf("unsupported address %q: want one that begins with http:// or https://, or a directory", address)
	case !ok && looksLikeHost(address):
		return hint.With(fmt.Errorf("directory %q not found", address),
			"if this is a server's address, write http:// or https:// in front")
	}
	if !IsRemote(address) {
		return nil
	}
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return fmt.Errorf("invalid address %q: %w", address, errors.Unwrap(err))
	case u.Hostname() == "":
		return fmt.Errorf("%q names no host", address)
	case path.Base(u.Path) == arch:
		return hint.Withf(fmt.Errorf("address %q ends with the architecture", address), "leave out /%s at the end: Pikelet adds it", arch)
	}
	return nil
}

// looksLikeHost reports whether the first part of a path may be meant as a host.
func looksLikeHost(p string) bool {
	host, _, ok := strings.Cut(p, "/")
	return ok && !strings.HasPrefix(host, ".") && (strings.ContainsAny(host, ".:") || host == "localhost")
}
