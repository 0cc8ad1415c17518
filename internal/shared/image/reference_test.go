package image

import (
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
)

// TestCheckReference: what registries' clients would refuse is refused with what
// to write instead, and nothing else is.
func TestCheckReference(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("ab", 32)
	for ref, want := range map[string]string{
		"registry.example/homelab":               "",
		"registry.example/homelab:stable":        "",
		"registry.example/pi/home_lab:1.0":       "",
		"registry.example:5000/a/b.c/d--e:V1":    "",
		"registry.example/homelab" + digest:      "",
		"registry.example/homelab:1.0" + digest:  "",
		"localhost/x":                            "",
		"127.0.0.1:5000/x":                       "",
		"[::1]:5000/x":                           "",
		"ghcr.io/Owner/Name:1.0":                 "write it in lower case: ghcr.io/owner/name:1.0",
		"registry.example/Homelab:stable":        "lower case: registry.example/homelab:stable",
		"docker://ghcr.io/owner/name":            "leave out docker://: a reference begins with the registry's host: ghcr.io/owner/name",
		"oci://ghcr.io/owner/name":               "leave out oci://",
		"http://registry.example/x":              "leave out http://",
		"https://anna:s3cret@registry.example/x": "user name",
		"anna:s3cret@registry.example/x":         "user name or password",
		"x:":                                     "registry's host first",
		".:x":                                    "registry's host first",
		"":                                       "registry's host first",
		"homelab/x":                              "registry's host first",
		"registry.example/":                      "the repository",
		"registry.example/x:":                    `the tag ""`,
		"registry.example/x@sha256:12":           "the digest",
		"registry.example/a//b":                  "the repository",
		"registry.example/a b":                   "the repository",
		"-registry.example/x":                    "registry's host first",
	} {
		want := strings.TrimPrefix(want, "write it in ")
		err := CheckReference(ref)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%q: %v, want %q", ref, err, want)
		}
		if _, other := name.ParseReference(ref); err == nil && other != nil && !strings.HasPrefix(ref, "[") {
			t.Errorf("%q is taken, and go-containerregistry says %v", ref, other)
		}
	}
}
