package builder

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/shared/atomicfile"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// ImagerFile is the list that Raspberry Pi Imager reads: rpi-imager --repo
// URL/os_list.json.
const ImagerFile = "os_list.json"

// imagerIcon is the file of the icon that Imager shows beside an image, and
// imagerIconText what is in it: an image of 40 by 40 pixels, as rpi-imager's
// doc/os-sublist-example.json has it.
const (
	imagerIcon     = "pikelet.svg"
	imagerIconText = `<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40" viewBox="0 0 40 40">` +
		`<circle cx="20" cy="20" r="19" fill="#c9803a"/><circle cx="20" cy="20" r="15" fill="#f0c988"/>` +
		`<g fill="#c9803a"><circle cx="15" cy="14" r="2"/><circle cx="25" cy="15" r="2"/><circle cx="20" cy="21" r="2"/>` +
		`<circle cx="13" cy="24" r="2"/><circle cx="26" cy="26" r="2"/></g></svg>` + "\n"
)

// website is where Imager leads who wants to know more of an image.
const website = "https://github.com/pikelet-os/pikelet"

// imagerArch is what Imager calls 64-bit Arm.
const imagerArch = "armv8"

// imagerList is the part of Imager's list that ours has (rpi-imager's
// doc/json-schema/os-list-schema.json). Imager 2 asks for the device first, and
// knows none but those of the list.
type imagerList struct {
	Imager struct {
		Devices []imagerDevice `json:"devices"`
	} `json:"imager"`
	Systems []imagerSystem `json:"os_list"`
}

// imagerDevice is a model that Imager offers; it shows the images that have one of
// its tags.
type imagerDevice struct {
	Name         string   `json:"name"`
	Description  string   `json:"description"`
	Tags         []string `json:"tags"`
	Matching     string   `json:"matching_type"`
	Architecture string   `json:"architecture"`
}

type imagerSystem struct {
	Name           string   `json:"name"`
	Description    string   `json:"description"`
	Icon           string   `json:"icon"`
	URL            string   `json:"url"`
	ExtractSize    int64    `json:"extract_size"`
	ExtractSHA256  string   `json:"extract_sha256"`
	DownloadSize   int64    `json:"image_download_size"`
	DownloadSHA256 string   `json:"image_download_sha256"`
	Released       string   `json:"release_date"`
	Init           string   `json:"init_format"`
	Devices        []string `json:"devices"`
	Website        string   `json:"website"`
	Architecture   string   `json:"architecture"`
}

// imagerDescription is what Imager shows of an image, below its name.
const imagerDescription = "A Pikelet image for %s. Then put nodes.yaml onto the card's first partition."

// ParseImagerURL parses the address of a directory that Raspberry Pi Imager
// fetches from: http or https, with a host.
func ParseImagerURL(base string) (*url.URL, error) {
	address, err := url.Parse(base)
	if err != nil || address.Host == "" || address.Scheme != "https" && address.Scheme != "http" {
		return nil, fmt.Errorf("Raspberry Pi Imager cannot fetch from %q; want an address such as https://host/directory", base)
	}
	return address, nil
}

// AddToImager adds a disk image, which is in dir compressed as file, to the
// list for Raspberry Pi Imager in dir. base is the address that dir has for
// Imager. An older entry of the same name is replaced; newer ones come first.
func AddToImager(dir, file, img string, base *url.URL, m *image.Manifest) error {
	s := imagerSystem{
		Name: m.Stream + " " + m.Release, URL: base.JoinPath(file).String(), Released: time.Unix(m.Epoch, 0).UTC().Format(time.DateOnly),
		// Pikelet reads nothing of what Imager would write into an image, such as
		// a user or a Wi-Fi network.
		Init:        "none",
		Description: fmt.Sprintf(imagerDescription, strings.Join(m.Boards, ", ")),
		Icon:        base.JoinPath(imagerIcon).String(), Website: website, Architecture: imagerArch, Devices: []string{},
	}
	for _, name := range m.Boards {
		b, err := boards.Find(name)
		if err != nil {
			return err
		}
		if b.Imager != "" && !slices.Contains(s.Devices, b.Imager) {
			s.Devices = append(s.Devices, b.Imager)
		}
	}
	var err error
	if s.ExtractSHA256, s.ExtractSize, err = hashFile(img); err != nil {
		return err
	}
	if s.DownloadSHA256, s.DownloadSize, err = hashFile(filepath.Join(dir, file)); err != nil {
		return err
	}
	name := filepath.Join(dir, ImagerFile)
	var list imagerList
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	systems := []imagerSystem{s}
	for _, old := range list.Systems {
		if old.Name != s.Name {
			systems = append(systems, old)
		}
	}
	list.Systems, list.Imager.Devices = systems, imagerDevices(systems)
	if b, err = json.MarshalIndent(list, "", "  "); err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, imagerIcon), []byte(imagerIconText), 0o644); err != nil {
		return err
	}
	return atomicfile.Write(name, append(b, '\n'), 0o644)
}

// imagerDevices returns the models that there is an image for.
func imagerDevices(systems []imagerSystem) []imagerDevice {
	list := []imagerDevice{}
	for _, name := range boards.Names() {
		b, err := boards.Find(name)
		if err != nil || !slices.ContainsFunc(systems, func(s imagerSystem) bool { return slices.Contains(s.Devices, b.Imager) }) {
			continue
		}
		list = append(list, imagerDevice{Name: b.Title, Description: "The board " + b.Name, Tags: []string{b.Imager},
			Matching: "exclusive", Architecture: imagerArch})
	}
	return list
}

func hashFile(name string) (sum string, size int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.CopyBuffer(h, f, make([]byte, 1<<20))
	return hex.EncodeToString(h.Sum(nil)), size, err
}
