package cli

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
)

// TestDocumentsOfAnImage: the bill of materials and the provenance of an image are
// printed from wherever it is, the same everywhere, and only if a trusted key signed
// them; from a card, the hint says where they are.
func TestDocumentsOfAnImage(t *testing.T) {
	dir := shippedIn(t)
	must(t, dir, "cp "+shipped.dir+"/image.yaml .")
	bill, said := ok(t, dir, "sbom", "two"), ok(t, dir, "provenance", "two")
	if !json.Valid([]byte(bill)) || !strings.Contains(bill, `"spdxVersion": "SPDX-2.3"`) {
		t.Errorf("the bill of materials:\n%.500s", bill)
	}
	if !json.Valid([]byte(said)) || !strings.Contains(said, `"predicateType": "https://slsa.dev/provenance/v1"`) {
		t.Errorf("the provenance:\n%.500s", said)
	}
	s := startRegistry(t, registrytest.Options{})
	repo := s.Addr + "/os/twin"
	must(t, dir, "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out o.key && openssl pkey -in o.key -pubout -out o.pub")
	ok(t, dir, "publish", repo, "--plain-http", "--image", "two", "--from", "0", "--sign-key", "o.key")
	ok(t, dir, "pull", repo+":1.1", "--plain-http", "--key", "ci.pub", "-o", "two.tar")
	for _, from := range [][]string{
		{"two"}, {"two.tar"}, {"two/artifact"}, {repo + ":1.1", "--plain-http", "--key", "ci.pub"},
		{repo + ":1.1", "--plain-http", "--key", "o.pub"},
	} {
		if got := ok(t, dir, append([]string{"sbom"}, from...)...); got != bill {
			t.Errorf("%v: another bill of materials", from)
		}
		if got := ok(t, dir, append([]string{"provenance", "--spec", "image.yaml"}, from...)...); got != said {
			t.Errorf("%v: another provenance", from)
		}
	}
	for _, document := range []string{"sbom", "provenance"} {
		fails(t, dir, []string{document, "two/disk.img"}, "nothing signed by a trusted key refers to the image",
			"hint: cards and disk images hold the files of nodes alone: name the build's output directory, or REPOSITORY@sha256:")
		if out, _ := outputs(t, dir, document, "--json", "two"); len(out) != 1 || out[0]["result"].(map[string]any)["image"] == "" {
			t.Errorf("%s --json: %v", document, out)
		}
	}
	edit(t, dir+"/image.yaml", `release: "1.1"`, `release: "1.2"`)
	fails(t, dir, []string{"provenance", "--spec", "image.yaml", "two"}, "image.yaml is another one: digest mismatch: got sha256:")
	edit(t, dir+"/image.yaml", `release: "1.2"`, `release: "1.1"`)
	write(t, dir+"/image.yaml.lock", "a lock", 0o644)
	fails(t, dir, []string{"provenance", "--spec", "image.yaml", "two"}, "the image was built without a lock, and image.yaml.lock is there")
	tamper(t, dir+"/two/artifact", bill)
	fails(t, dir, []string{"sbom", "two"}, "digest mismatch")
}

// tamper changes a blob of a layout that holds a text.
func tamper(t *testing.T, layout, text string) {
	t.Helper()
	name := image.Blobs(layout + "/blobs/sha256").Path(image.DigestOf([]byte(text)))
	if _, err := os.Stat(name); err != nil {
		t.Fatal(err)
	}
	write(t, name, strings.Replace(text, "NOASSERTION", "NOASSERTIOM", 1), 0o644)
}
