package cli

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// TestHintsOfMissingInputs: what to do about an input that is missing depends on
// what it is and where it should be.
func TestHintsOfMissingInputs(t *testing.T) {
	for what, want := range map[string]string{
		"https://mirror.example/main/aarch64/a-1-r0.apk":      "mirrors drop superseded packages",
		"repo/aarch64/a-1-r0.apk":                             "among the packages that are there",
		"https://mirror.example/mian/aarch64/APKINDEX.tar.gz": "check the repository's url",
		"repo/aarch64/APKINDEX.tar.gz":                        "taken for a directory",
		"https://k3s.example/k3s-arm64":                       "check the address",
		"v1.33.5+k3s1":                                        "taken for a file on this computer",
	} {
		err := fmt.Errorf("the server answered: %w", &fetch.Missing{What: what})
		if got := strings.Join(hint.Of(inputHint(err, "image.yaml")), ""); !strings.Contains(got, want) {
			t.Errorf("%s: got the hint %q, want %q", what, got, want)
		}
	}
	offline := &fetch.Missing{What: "http://x/y.apk", Offline: true}
	if got := strings.Join(hint.Of(inputHint(offline, "image.yaml")), ""); !strings.Contains(got, "build once with the network") {
		t.Errorf("offline: %q", got)
	}
}
