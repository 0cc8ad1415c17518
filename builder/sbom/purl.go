package sbom

import (
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/package-url/packageurl-go"
)

// APK returns the package URL of a package of a distribution of Alpine's kind,
// such as 3.23 of alpine (https://github.com/package-url/purl-spec, type apk). The
// specification has no place for the source package.
func APK(distribution, release, name, version, arch string) string {
	return packageurl.NewPackageURL("apk", distribution, strings.ToLower(name), version, packageurl.QualifiersFromMap(map[string]string{
		"arch": arch, "distro": distribution + "-" + release,
	}), "").ToString()
}

// OCI returns the package URL of a container image by the repository it is in and
// the digest of its manifest.
func OCI(repository, digest, arch string) string {
	return packageurl.NewPackageURL("oci", "", strings.ToLower(path.Base(repository)), digest, packageurl.QualifiersFromMap(map[string]string{
		"arch": arch, "repository_url": strings.ToLower(repository),
	}), "").ToString()
}

// moduleVersion is the version of a module of Go that was released. What git
// describe says of a commit between two releases is none.
var moduleVersion = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+(-(alpha|beta|rc)[0-9A-Za-z.]*)?(\+[0-9A-Za-z.]+)?$`)

// GoModule returns the package URL of a program or a library of Go by its module;
// "" without a version that is one of a module's.
func GoModule(module, version string) string {
	i := strings.LastIndex(module, "/")
	if i < 0 || !moduleVersion.MatchString(version) {
		return ""
	}
	return packageurl.NewPackageURL("golang", module[:i], module[i+1:], version, nil, "").ToString()
}

// Fetch returns what is known of a file by the address it is fetched from and its
// SHA-256 in hexadecimal digits: its name, and for a release on GitHub its version.
// An address that is a path says nothing but the name.
func Fetch(address, sum string) Part {
	p := Part{Kind: Fetched, Name: path.Base(strings.ReplaceAll(address, "\\", "/")), SHA256: sum}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" {
		return p
	}
	u.User = nil
	p.Name, p.Download = path.Base(u.Path), u.String()
	pin := packageurl.QualifiersFromMap(map[string]string{"checksum": "sha256:" + sum, "download_url": p.Download})
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	if u.Host != "github.com" || len(parts) != 6 || parts[2] != "releases" || parts[3] != "download" {
		p.PURL = packageurl.NewPackageURL("generic", "", p.Name, "", pin, "").ToString()
		return p
	}
	p.Version = parts[4]
	if parts[0] == "k3s-io" && parts[1] == "k3s" { // whose advisories call it by its module
		p.PURL = GoModule("github.com/k3s-io/k3s", p.Version)
		return p
	}
	p.PURL = packageurl.NewPackageURL("github", strings.ToLower(parts[0]), strings.ToLower(parts[1]), p.Version, pin, "").ToString()
	return p
}
