package builder

import (
	"archive/tar"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// labCA is a certificate whose subject has a letter that is not ASCII and
// blanks that OpenSSL folds; "openssl x509 -subject_hash" says 145c96a5.
const labCA = `-----BEGIN CERTIFICATE-----
MIIBwzCCAWmgAwIBAgIUAbq8D14Sq09Id+lABLdqkiL3LlwwCgYIKoZIzj0EAwIw
NzELMAkGA1UEBhMCREUxFzAVBgNVBAoMDsOcbnNlciAgTGFib3IgMQ8wDQYDVQQD
DAZMYWIgQ0EwHhcNMjYxMTI5MDgzODQ1WhcNMzYxMTI2MDgzODQ1WjA3MQswCQYD
VQQGEwJERTEXMBUGA1UECgwOw5xuc2VyICBMYWJvciAxDzANBgNVBAMMBkxhYiBD
QTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABJGGR5ReKqJawHevCHjREYbY6Ph+
HqEVRXUaZ4amg7X/JxiQD3j+P4l7Loo8Uk0Qw4Kjvv7ff/cvqieJOIEG05OjUzBR
MB0GA1UdDgQWBBQLh/dK1mWuMThgcKddeD7aXPoUKTAfBgNVHSMEGDAWgBQLh/dK
1mWuMThgcKddeD7aXPoUKTAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gA
MEUCIEUa4vmTxvcCU35lipLgEXTufxJMpxpYLAqWCujoVG5gAiEA/YcsdPEES107
K6s02NRIbxsMCPiCZ8qcz9b3j18b/1k=
-----END CERTIFICATE-----
`

// TestOwnAuthorities: an authority below /usr/local/share/ca-certificates is
// in the bundle, as update-ca-certificates would have it
// (chainguard-dev/melange#1275), or a warning names it.
func TestOwnAuthorities(t *testing.T) {
	block, _ := pem.Decode([]byte(labCA))
	withText := "Lab's own\n" + labCA
	for what, c := range map[string]struct {
		packages []string
		files    map[string]string
		bundle   string // what is behind the bundle that was there
		links    string
		warning  string
	}{
		"none": {[]string{"ca-certificates"}, nil, "", "", ""},
		"one": {[]string{"ca-certificates"}, map[string]string{"lab.crt": withText}, string(pem.EncodeToMemory(block)),
			"145c96a5.0->ca-cert-lab.pem ca-cert-lab.pem->/usr/local/share/ca-certificates/lab.crt", ""},
		"twice": {[]string{"ca-certificates"}, map[string]string{"a.crt": labCA, "b.crt": labCA}, labCA,
			"145c96a5.0->ca-cert-a.pem 145c96a5.1->ca-cert-b.pem ca-cert-a.pem->/usr/local/share/ca-certificates/a.crt " +
				"ca-cert-b.pem->/usr/local/share/ca-certificates/b.crt", ""},
		"no package": {[]string{"busybox"}, map[string]string{"lab.crt": labCA}, "", "",
			`certificates will not be trusted, the image has no ca-certificates count="1" first="/usr/local/share/ca-certificates/lab.crt" ` +
				`from="layer"`},
		"another name": {[]string{"ca-certificates"}, map[string]string{"lab.pem": labCA}, "", "",
			`will not be trusted file="/usr/local/share/ca-certificates/lab.pem" from="layer" hint="want a file *.crt`},
		"no certificate": {[]string{"ca-certificates"}, map[string]string{"lab.crt": "x"}, "", "",
			`lab.crt" from="layer" hint="want a file *.crt with certificates in PEM"`},
	} {
		tree := layers.NewTree(newContents(t).spool)
		const old = "# Mozilla's"
		add := func(name, text string) {
			if err := tree.AddFile(tar.Header{Name: name, Mode: 0o644}, "layer", []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		add(bundleFile, old)
		for name, text := range c.files {
			add(authoritiesDir+"/"+name, text)
		}
		var packages []*apk.Installed
		for _, name := range c.packages {
			packages = append(packages, &apk.Installed{Package: &apk.Package{Name: name}})
		}
		var warnings []Warning
		for range 2 { // a second time changes nothing
			var err error
			if warnings, err = addAuthorities(tree, packages, time.Unix(0, 0)); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		want := old
		if c.bundle != "" {
			want += "\n" + c.bundle
		}
		if got, _ := tree.ReadFile(bundleFile, 1<<20); string(got) != want {
			t.Errorf("%s: the bundle is\n%s\nwant\n%s", what, got, want)
		}
		var links []string
		for _, e := range tree.Below(certificatesDir) {
			if e.Typeflag == tar.TypeSymlink {
				links = append(links, strings.TrimPrefix(e.Name, certificatesDir+"/")+"->"+e.Linkname)
			}
		}
		if got := strings.Join(links, " "); got != c.links {
			t.Errorf("%s: links %q, want %q", what, got, c.links)
		}
		if got := lines(warnings); c.warning == "" && got != "" || !strings.Contains(got, c.warning) {
			t.Errorf("%s: warnings %q, want %q", what, got, c.warning)
		}
	}
}

// TestAttributesThatAreDropped: a POSIX ACL ends no build, and is not lost
// without a word.
func TestAttributesThatAreDropped(t *testing.T) {
	tree := layers.NewTree(newContents(t).spool)
	for _, name := range []string{"a", "b"} {
		h := tar.Header{Name: name, Mode: 0o644, PAXRecords: map[string]string{
			"SCHILY.xattr.system.posix_acl_access": "x", "SCHILY.xattr.security.capability": "y"}}
		if err := tree.AddFile(h, "tar x", nil); err != nil {
			t.Fatal(err)
		}
	}
	put(t, tree, "tar x", "c=>a")
	warnings := dropAttributes(tree)
	if len(warnings) != 1 || !strings.Contains(warnings[0].String(), `attribute="system.posix_acl_access" files="2" first="/a" from="tar x"`) {
		t.Errorf("%q", warnings)
	}
	for _, e := range tree.Entries() {
		if len(e.PAXRecords) != 1 || e.PAXRecords["SCHILY.xattr.security.capability"] != "y" {
			t.Errorf("%s: %q", e.Name, e.PAXRecords)
		}
	}
}

// TestOutputInsideALayer: a build does not read what it writes.
func TestOutputInsideALayer(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"layer/sub", "layers"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("layer/sub", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	img := &spec.Image{Layers: []spec.Layer{{OCI: "x"}, {Folder: filepath.Join(dir, "layer")}}}
	for out, refused := range map[string]bool{"layer": true, "layer/out/new": true, "link/out": true, "layers": false, "out": false,
		".": false} {
		err := checkOutput(img, filepath.Join(dir, out))
		if refused != (err != nil) || err != nil && !strings.Contains(err.Error(), "layers[1].folder") {
			t.Errorf("%s: %v", out, err)
		}
	}
}
