package image

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// What OCI's distribution spec (v1.1, "Pull") lets names and tags be.
var (
	label    = `[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?`
	hostForm = regexp.MustCompile(`^(` + label + `(\.` + label + `)*|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?$`)
	pathForm = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagForm  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
)

// CheckReference says why a text is no registry's reference, and how to write it;
// nil if it is one: host/repository, with :tag or @digest or without. The host has
// a dot or a port, or is localhost. A user name and password are never quoted.
func CheckReference(ref string) error {
	if scheme, rest, ok := strings.Cut(ref, "://"); ok {
		if strings.Contains(rest, "@") && !strings.Contains(rest, "@sha256:") {
			return errors.New("a reference begins with the registry's host, without a scheme, a user name or a password")
		}
		return fmt.Errorf("%q: leave out %s://: a reference begins with the registry's host: %s", ref, scheme, rest)
	}
	host, rest, ok := strings.Cut(ref, "/")
	if strings.Contains(host, "@") {
		return errors.New("a reference holds no user name or password; log in as for docker")
	}
	if !ok || !hostForm.MatchString(host) || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return fmt.Errorf("%q: want a reference such as registry.example/homelab:stable, with the registry's host first", ref)
	}
	name, digest, hasDigest := strings.Cut(rest, "@")
	name, tag, hasTag := strings.Cut(name, ":")
	switch {
	case hasDigest && !digestForm.MatchString(digest):
		return fmt.Errorf("%q: the digest %q is not sha256: and 64 hexadecimal digits", ref, digest)
	case hasTag && !tagForm.MatchString(tag):
		return fmt.Errorf("%q: the tag %q is not 1 to 128 letters, digits and . _ -", ref, tag)
	case name != strings.ToLower(name) && pathForm.MatchString(strings.ToLower(name)):
		return fmt.Errorf("%q: repositories are written in lower case: %s", ref, host+"/"+strings.ToLower(name)+rest[len(name):])
	case !pathForm.MatchString(name):
		return fmt.Errorf("%q: the repository %q is not lower-case letters and digits, with / . _ - between them", ref, name)
	}
	return nil
}
