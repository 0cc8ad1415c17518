package cli

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// TestSameBytes builds twice, in other directories, at other times, under another
// umask, time zone and number of cores: every file must be the same.
func TestSameBytes(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := makeKey(key); err != nil {
		t.Fatal(err)
	}
	build := func(env ...string) string {
		dir := t.TempDir()
		newSpecOver(t, dir, starterFolder(t))
		edit(t, dir+"/image.yaml", "slot-size: 34MiB", "slot-size: 64MiB")
		if out, code := pikelet(t, dir, env, "build", "--sign-key", key, "--zst", "-o", "out", "image.yaml"); code != 0 {
			t.Fatalf("exit %d:\n%s", code, out)
		}
		return dir + "/out"
	}
	first := build("TZ=UTC", "GOMAXPROCS=1", "BE_UMASK=022")
	time.Sleep(1100 * time.Millisecond) // file times are whole seconds in all formats here
	second := build("TZ=Pacific/Auckland", "GOMAXPROCS=4", "BE_UMASK=077", "LC_ALL=C")
	n := 0
	filepath.WalkDir(first, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		if d.IsDir() {
			return nil
		}
		n++
		rel, _ := filepath.Rel(first, p)
		a, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(second, rel))
		if err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs between the two builds (%v)", rel, err)
		}
		return nil
	})
	if n < 20 {
		t.Errorf("only %d files were compared", n)
	}
	judge(t, first)
	judgeSignature(t, first, key)
}

// judge lets the real tools read what a build wrote.
func judge(t *testing.T, dir string) {
	text, err := os.ReadFile(dir + "/manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.DecodeManifest(text)
	if err != nil {
		t.Fatal(err)
	}
	root, _ := m.File(image.RootFile)
	blob := dir + "/artifact/blobs/sha256/" + strings.TrimPrefix(root.Digest, "sha256:")
	offset := fmt.Sprint(m.Root.DataBlocks * 4096)
	if out, err := exec.Command("veritysetup", "verify", "--no-superblock", "--salt="+m.Root.Salt, "--data-blocks="+
		fmt.Sprint(m.Root.DataBlocks),
		"--hash-offset="+offset, blob, blob, m.Root.Hash).CombinedOutput(); err != nil {
		t.Errorf("veritysetup: %v\n%s", err, out)
	}
	if out, err := exec.Command("sfdisk", "--verify", dir+"/disk.img").CombinedOutput(); err != nil {
		t.Errorf("sfdisk: %v\n%s", err, out)
	}
	for n, label := range map[int]string{1: "CONTROL", 2: "SLOT-A", 3: "SLOT-B"} {
		part := partition(t, dir+"/disk.img", n)
		if out, err := exec.Command("fsck.vfat", "-n", part).CombinedOutput(); err != nil {
			t.Errorf("partition %d: fsck.vfat: %v\n%s", n, err, out)
		}
		if out, err := exec.Command("mdir", "-i", part, "::").CombinedOutput(); err != nil || !strings.Contains(string(out), label) {
			t.Errorf("partition %d: mdir: %v\n%s", n, err, out)
		}
	}
	judgeRoot(t, dir, blob)
	if out, err := exec.Command("zstd", "-tq", dir+"/artifact/blobs/sha256/"+digest(m, image.InitramfsFile)).CombinedOutput(); err != nil {
		t.Errorf("zstd: %v\n%s", err, out)
	}
}

func digest(m *image.Manifest, name string) string {
	f, _ := m.File(name)
	return strings.TrimPrefix(f.Digest, "sha256:")
}

// judgeSignature finds the signature the way cosign does, by the tag that the
// signed digest makes, and lets openssl check it.
func judgeSignature(t *testing.T, dir, private string) {
	read := func(digest string, to any) []byte {
		t.Helper()
		b, err := os.ReadFile(dir + "/artifact/blobs/sha256/" + strings.TrimPrefix(digest, "sha256:"))
		if err != nil {
			t.Fatal(err)
		}
		if to != nil {
			if err := json.Unmarshal(b, to); err != nil {
				t.Fatal(err)
			}
		}
		return b
	}
	b, err := os.ReadFile(dir + "/artifact/index.json")
	if err != nil {
		t.Fatal(err)
	}
	var layout, index image.OCIIndex
	// The index, the bill, the provenance, and three signatures in two forms.
	if err := json.Unmarshal(b, &layout); err != nil || len(layout.Manifests) != 9 {
		t.Fatalf("index.json: %v\n%s", err, b)
	}
	tmp := t.TempDir()
	if out, err := exec.Command("openssl", "pkey", "-in", private, "-pubout", "-out", tmp+"/pub").CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	read(layout.Manifests[0].Digest, &index)
	bill := layout.Manifests[1]
	tagged := map[string]image.Descriptor{}
	for _, d := range layout.Manifests[2:] {
		tagged[d.Annotations[image.AnnotationRefName]] = d
	}
	for _, signed := range []string{index.Manifests[0].Digest, layout.Manifests[0].Digest, bill.Digest} {
		d, ok := tagged[strings.Replace(signed, ":", "-", 1)+".sig"]
		if !ok {
			t.Fatalf("cosign finds no signature of %s among %v", signed, tagged)
		}
		var sig image.OCIManifest
		read(d.Digest, &sig)
		payload := read(sig.Layers[0].Digest, nil)
		if !strings.Contains(string(payload), signed) {
			t.Errorf("what was signed does not name %s: %s", signed, payload)
		}
		raw, err := base64.StdEncoding.DecodeString(sig.Layers[0].Annotations["dev.cosignproject.cosign/signature"])
		if err != nil {
			t.Fatal(err)
		}
		write(t, tmp+"/payload", string(payload), 0o600)
		write(t, tmp+"/sig", string(raw), 0o600)
		if out, err := exec.Command("openssl", "dgst", "-sha256", "-verify", tmp+"/pub", "-signature", tmp+"/sig", tmp+
			"/payload").CombinedOutput(); err != nil {
			t.Errorf("openssl: %v\n%s", err, out)
		}
	}
	judgeBill(t, read, bill, index.Manifests[0].Digest)
}

// judgeBill looks whether the bill of materials refers to the image and lists
// each of its packages, with a licence and a name that scanners know.
func judgeBill(t *testing.T, read func(string, any) []byte, d image.Descriptor, img string) {
	var m image.OCIManifest
	read(d.Digest, &m)
	if m.Subject == nil || m.Subject.Digest != img || m.ArtifactType != "application/spdx+json" || d.ArtifactType != m.ArtifactType {
		t.Errorf("the bill of materials refers to %+v", m.Subject)
	}
	var bill struct {
		Version  string `json:"spdxVersion"`
		Packages []struct {
			ID       string `json:"SPDXID"`
			Name     string
			Version  string `json:"versionInfo"`
			Declared string `json:"licenseDeclared"`
			External []struct {
				Locator string `json:"referenceLocator"`
			} `json:"externalRefs"`
			Checksums []struct {
				Value string `json:"checksumValue"`
			}
		}
		Relationships []struct {
			To string `json:"relatedSpdxElement"`
		}
	}
	read(m.Layers[0].Digest, &bill)
	names, ids := map[string]bool{}, map[string]bool{}
	for _, p := range bill.Packages {
		names[p.Name+" "+p.Version], names[p.Name] = true, true
		ids[p.ID] = true
		// The starter repository is not Alpine's, and SPDX does not know what it says of licences.
		if strings.HasPrefix(p.Name, "busybox") &&
			(len(p.External) != 0 || len(p.Checksums) != 1 || !strings.HasPrefix(p.Declared, "LicenseRef-")) {
			t.Errorf("of busybox it says %+v", p)
		}
	}
	var config image.OCIManifest
	read(img, &config)
	manifest := read(config.Config.Digest, nil)
	if bill.Version != "SPDX-2.3" || len(ids) != len(bill.Packages) || len(bill.Relationships) != len(bill.Packages) || len(manifest) == 0 {
		t.Errorf("version %s, %d packages, %d ids, %d relationships", bill.Version, len(bill.Packages), len(ids), len(bill.Relationships))
	}
	for _, want := range []string{"twin 1.0", "files ", "pikelet-init dev", "pikeletd dev"} {
		if !names[want] {
			t.Errorf("the bill of materials lists no %q", want)
		}
	}
	if len(names) < 25 {
		t.Errorf("only %d things are listed", len(names))
	}
}

// partition cuts a partition out of a disk image.
func partition(t *testing.T, disk string, n int) string {
	t.Helper()
	out, err := exec.Command("sfdisk", "--dump", disk).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(out), "\n") {
		var start, size int64
		name, rest, _ := strings.Cut(line, " : ")
		if !strings.HasSuffix(name, fmt.Sprint("img", n)) {
			continue
		}
		if _, err := fmt.Sscanf(strings.ReplaceAll(rest, " ", ""), "start=%d,size=%d", &start, &size); err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(t.TempDir(), "part")
		if out, err := exec.Command("dd", "if="+disk, "of="+to, "bs=512", fmt.Sprint("skip=", start), fmt.Sprint("count=", size), "conv=sparse",
			"status=none").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return to
	}
	t.Fatalf("no partition %d in\n%s", n, out)
	return ""
}

// judgeRoot compares unsquashfs' listing with tree.txt, and a few files with
// what went in.
func judgeRoot(t *testing.T, dir, blob string) {
	out, err := exec.Command("unsquashfs", "-lln", "-UTC", blob).Output()
	if err != nil {
		out, err = exec.Command("unsquashfs", "-lln", blob).Output()
	}
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, line := range strings.Split(string(out), "\n") {
		f := strings.Fields(line)
		if len(f) < 6 || !strings.HasPrefix(f[5], "squashfs-root") {
			continue
		}
		got[strings.TrimPrefix(f[5], "squashfs-root")] = f[0] + " " + f[1]
	}
	listing, err := os.ReadFile(dir + "/tree.txt")
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, line := range strings.Split(strings.TrimSpace(string(listing)), "\n") {
		kind, owner, name := parseListing(t, line)
		if strings.HasPrefix(name, "/boot/") {
			continue
		}
		compared++
		want := kind + " " + strings.Replace(owner, ":", "/", 1)
		if got[name] != want {
			t.Errorf("%s: unsquashfs says %q, tree.txt %q", name, got[name], want)
		}
	}
	if compared < 500 {
		t.Errorf("only %d names of the root were compared", compared)
	}
	for name, want := range map[string]string{"etc/hello": "hello\n", "usr/bin/hi": "#!/bin/sh\necho hi\n"} {
		got, err := exec.Command("unsquashfs", "-cat", blob, name).Output()
		if err != nil || string(got) != want {
			t.Errorf("%s in the root is %q (%v)", name, got, err)
		}
	}
}

// parseListing reads a line of tree.txt: what ls would show as kind and mode,
// the owner, and the name.
func parseListing(t *testing.T, line string) (mode, owner, name string) {
	t.Helper()
	f := strings.Fields(line)
	var perm int64
	if _, err := fmt.Sscanf(f[1], "%o", &perm); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	h := tar.Header{Mode: perm, Typeflag: tar.TypeReg}
	text := []byte(h.FileInfo().Mode().Perm().String())
	text[0] = map[string]byte{"f": '-', "h": '-', "d": 'd', "l": 'l', "c": 'c', "b": 'b', "p": 'p'}[f[0]]
	for i, bit := range []int64{0o4000, 0o2000, 0o1000} {
		if perm&bit != 0 {
			at := 3 * (i + 1)
			low := []byte("sst")[i]
			if text[at] == '-' {
				low -= 'a' - 'A'
			}
			text[at] = low
		}
	}
	if f[5] == "->" {
		return string(text), f[2], f[7]
	}
	return string(text), f[2], f[6]
}
