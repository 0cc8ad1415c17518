package cli

import (
	"encoding/json"
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
	must(t, dir, "ls -A www | wc -l | grep -qx 3")
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

func jsonNumber(n int64) string { b, _ := json.Marshal(n); return string(b) }
