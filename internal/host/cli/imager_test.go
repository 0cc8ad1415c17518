package cli

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// TestPublishForImager: the list has the sizes and digests of the images, the newest
// first, and each image is the disk image of its build.
func TestPublishForImager(t *testing.T) {
	dir := shippedIn(t)
	for _, from := range []string{"one", "two", "two"} {
		ok(t, dir, "publish", "--image", from, "--imager", "www", "--imager-url", "https://pi.example/images/")
	}
	must(t, dir, "ls -A www | wc -l | grep -qx 4")
	must(t, dir, "zstd -q -d -c www/twin-1.0.img.zst | cmp - one/disk.img")
	var list struct {
		Systems []struct {
			Name, URL    string
			ExtractSize  int64  `json:"extract_size"`
			ExtractSum   string `json:"extract_sha256"`
			DownloadSize int64  `json:"image_download_size"`
			DownloadSum  string `json:"image_download_sha256"`
			Released     string `json:"release_date"`
			Devices      []string
		} `json:"os_list"`
	}
	if err := json.Unmarshal([]byte(mustRead(t, dir+"/www/os_list.json")), &list); err != nil || len(list.Systems) != 2 {
		t.Fatalf("%+v (%v)", list, err)
	}
	old := list.Systems[1]
	if list.Systems[0].Name != "twin 1.1" || old.Name != "twin 1.0" || old.URL != "https://pi.example/images/twin-1.0.img.zst" ||
		strings.Join(old.Devices, " ") != "pi3-64bit pi4-64bit" || len(old.Released) != 10 {
		t.Errorf("the list says %+v", list)
	}
	must(t, dir, "echo '"+old.ExtractSum+"  one/disk.img' | sha256sum -c --status && echo '"+old.DownloadSum+
		"  www/twin-1.0.img.zst' | sha256sum -c --status")
	must(t, dir, `[ "$(stat -c %s one/disk.img)" = `+jsonNumber(old.ExtractSize)+` ] && [ "$(stat -c %s www/twin-1.0.img.zst)" = `+
		jsonNumber(old.DownloadSize)+` ]`)
	fails(t, dir, []string{"publish", "--image", "one", "--imager", "www"}, "[imager imager-url]")
	fails(t, dir, []string{"publish", "--image", "one", "--imager", "x", "--imager-url", "my directory"},
		"Raspberry Pi Imager cannot fetch from")
	must(t, dir, "[ ! -e x ]") // it is refused before anything is made
}

// TestImagerList: the list has each field that Imager's schema wants, of the kind it wants; of
// the rest, only what the schema knows. (rpi-imager's doc/json-schema/os-list-schema.json, of August 2026.)
func TestImagerList(t *testing.T) {
	dir := shippedIn(t)
	ok(t, dir, "publish", "--image", "one", "--imager", "www", "--imager-url", "https://pi.example/images/")
	text := mustRead(t, dir+"/www/os_list.json")
	var list map[string]any
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	const address, digest, tags = `https://pi\.example/images/[^/]+`, `[0-9a-f]{64}`, `\[(pi[345]-64bit ?)+\]`
	check := func(what string, of any, fields map[string]string) {
		t.Helper()
		m, ok := of.(map[string]any)
		if !ok {
			t.Fatalf("%s is %v", what, of)
		}
		for name, form := range fields {
			v := m[name]
			if n, ok := v.(float64); ok {
				v = int64(n)
			}
			if got := fmt.Sprint(v); !regexp.MustCompile("^(" + form + ")$").MatchString(got) {
				t.Errorf("%s: %s is %s, want %s", what, name, got, form)
			}
		}
		for name := range m {
			if fields[name] == "" {
				t.Errorf("%s: %s is not known", what, name)
			}
		}
	}
	systems, _ := list["os_list"].([]any)
	imager, _ := list["imager"].(map[string]any)
	devices, _ := imager["devices"].([]any)
	if len(list) != 2 || len(systems) != 1 || len(imager) != 1 || len(devices) != 3 { // rpi3, zero2w that is called as it is, rpi4
		t.Fatalf("the list is\n%s", text)
	}
	check("the image", systems[0], map[string]string{"name": ".+", "description": ".+", "icon": address, "url": address,
		"extract_size": `\d+`, "extract_sha256": digest, "image_download_size": `\d+`, "image_download_sha256": digest,
		"release_date": `\d{4}-\d\d-\d\d`, "init_format": "none", "devices": tags, "website": "https://.+", "architecture": "armv8"})
	for _, d := range devices {
		check("a device", d, map[string]string{"name": "Raspberry Pi .+", "description": ".+", "tags": tags, "matching_type": "exclusive",
			"architecture": "armv8"})
	}
	must(t, dir, "grep -q '^<svg ' www/pikelet.svg && grep -q 'images/pikelet.svg' www/os_list.json")
}

func jsonNumber(n int64) string { b, _ := json.Marshal(n); return string(b) }
