package sbom

import (
	"strings"
	"testing"

	"github.com/package-url/packageurl-go"
)

// TestPackageURLs: the package URLs are those that the specification's types want,
// and others read the same from them.
func TestPackageURLs(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	fetch := func(address string) string { return Fetch(address, sum).PURL }
	for got, want := range map[string]string{
		APK("alpine", "3.23", "busybox", "1.37.0-r12", "aarch64"): "pkg:apk/alpine/busybox@1.37.0-r12?arch=aarch64&distro=alpine-3.23",
		APK("alpine", "3.23", "libstdc++", "1.2_p1-r0", "noarch"): "pkg:apk/alpine/libstdc%2B%2B@1.2_p1-r0?arch=noarch&distro=alpine-3.23",
		OCI("Registry.example:5000/Team/Tools", "sha256:"+sum, "arm64"): "pkg:oci/tools@sha256:" + sum +
			"?arch=arm64&repository_url=registry.example:5000%2Fteam%2Ftools",
		GoModule("github.com/pikelet-os/pikelet", "v1.2.3"):                             "pkg:golang/github.com/pikelet-os/pikelet@v1.2.3",
		fetch("https://github.com/k3s-io/k3s/releases/download/v1.34.3+k3s1/k3s-arm64"): "pkg:golang/github.com/k3s-io/k3s@v1.34.3%2Bk3s1",
		fetch("https://github.com/Some/Tool/releases/download/1.2/tool.tgz"): "pkg:github/some/tool@1.2?checksum=sha256:" + sum +
			"&download_url=https:%2F%2Fgithub.com%2FSome%2FTool%2Freleases%2Fdownload%2F1.2%2Ftool.tgz",
		fetch("https://example.org/a/tool.tgz"): "pkg:generic/tool.tgz?checksum=sha256:" + sum +
			"&download_url=https:%2F%2Fexample.org%2Fa%2Ftool.tgz",
	} {
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		p, err := packageurl.FromString(got)
		if err != nil || p.ToString() != got {
			t.Errorf("%s is read as %s, %v", got, p.ToString(), err)
		}
	}
}

// TestNoPackageURL: what is not known to be a release has no package URL, and no
// path of this computer or login is told.
func TestNoPackageURL(t *testing.T) {
	for _, version := range []string{"", "dev", "v1", "1.2.3", "bd658d81-dirty", "v0.1.0-5-gabcdef0", "v0.1.0-dirty"} {
		if got := GoModule("github.com/pikelet-os/pikelet", version); got != "" {
			t.Errorf("%q: %s", version, got)
		}
	}
	for _, version := range []string{"v0.1.0", "v1.0.0-rc.1", "v1.34.3-rc1+k3s1"} {
		if GoModule("github.com/pikelet-os/pikelet", version) == "" {
			t.Errorf("%q has none", version)
		}
	}
	for _, address := range []string{"/home/somebody/tool.tgz", "../tool.tgz", `C:\Users\somebody\tool.tgz`} {
		if p := Fetch(address, "ab"); p.PURL != "" || p.Download != "" || p.Name != "tool.tgz" {
			t.Errorf("%s: %+v", address, p)
		}
	}
	if p := Fetch("https://somebody:secret@example.org/tool.tgz", "ab"); strings.Contains(p.PURL+p.Download, "secret") {
		t.Errorf("a login is told: %+v", p)
	}
}
