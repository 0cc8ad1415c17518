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

// imagerList is the part of Imager's list that ours has (rpi-imager's
// doc/json-schema/os-list-schema.json).
type imagerList struct {
	Systems []imagerSystem `json:"os_list"`
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
	Devices        []string `json:"devices,omitempty"`
}

// imagerDescription is what Imager shows of an image, below its name.
const imagerDescription = "A Pikelet image for %s. Put the config of its node onto the card with pikelet node write."

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
	if b, err = json.MarshalIndent(imagerList{systems}, "", "  "); err != nil {
		return err
	}
	return atomicfile.Write(name, append(b, '\n'), 0o644)
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
