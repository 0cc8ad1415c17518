package eeprom

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Chip is a system on a chip whose boards have a bootloader in an EEPROM, by
// the number that update files use.
type Chip string

// The chips of a Pi 4 and of a Pi 5.
const (
	BCM2711 Chip = "2711"
	BCM2712 Chip = "2712"
)

// boards names the boards of a chip.
func (c Chip) boards() string {
	if c == BCM2711 {
		return "4 or 400"
	}
	return "5 or 500"
}

// An image is a sequence of sections, at multiples of eight bytes: a magic
// number and a length, both with the high byte first, and as many bytes. All
// numbers here are those of rpi-eeprom-config in raspberrypi/rpi-eeprom.
const (
	magicCode = 0x55aaf00f
	magicMask = 0xfffff00f // the bits that the magic numbers of all sections share
	magicFile = 0x55aaf11f
	magicPad  = 0x55aafeef

	headSize  = 8
	nameSize  = 12
	textAt    = headSize + nameSize + 4 // of a file's content in its section, behind a word of zeros
	eraseSize = 4096
	maxFile   = eraseSize - headSize - nameSize

	// An image with two partitions has a read-only part, a partition, and
	// another, empty one. Only the first partition may change.
	readOnlySize  = 64 << 10
	partitionSize = 988 << 10

	confName = "bootconf.txt"
)

// Sizes of images: of a Pi 4 and of a Pi 5, bytes.
const (
	size2711 = 512 << 10
	size2712 = 2 << 20
)

// ChipOf returns the chip that an image is for, by its size.
func ChipOf(image []byte) (Chip, error) {
	switch len(image) {
	case size2711:
		return BCM2711, nil
	case size2712:
		return BCM2712, nil
	}
	return "", fmt.Errorf("invalid size of a bootloader image: got %d bytes, want %d (Pi 4) or %d (Pi 5)", len(image), size2711, size2712)
}

// section is a section of an image: the offset of its header, and the length of
// its content, in bytes. Only files have a name.
type section struct {
	magic      uint32
	at, length int
	name       string
}

// sections returns the sections of an image, up to the first word that is zero or
// erased.
func sections(image []byte) ([]section, error) {
	var list []section
	for at := 0; at+headSize <= len(image); {
		magic, length := binary.BigEndian.Uint32(image[at:]), binary.BigEndian.Uint32(image[at+4:])
		switch {
		case magic == 0 || magic == 0xffffffff:
			return list, nil
		case magic&magicMask != magicCode:
			return nil, fmt.Errorf("damaged image: magic number %#x at byte %d, want 0x55aaf..f", magic, at)
		case int64(length) > int64(len(image)-at-headSize):
			return nil, fmt.Errorf("damaged image: the section at byte %d has %d bytes, and %d are left", at, length, len(image)-at-headSize)
		}
		s := section{magic: magic, at: at, length: int(length)}
		if magic == magicFile && s.length >= nameSize {
			s.name = string(bytes.TrimRight(image[at+headSize:at+headSize+nameSize], "\x00"))
		}
		list = append(list, s)
		at = (at + headSize + s.length + 7) &^ 7
	}
	return list, nil
}

// place is where the configuration is in an image: offsets of its section and
// of its text, the text's length, and the offset of what follows and must stay.
type place struct {
	at, text, length, end int
	last                  bool // whether its section is the image's last one
}

// find returns the place of the configuration.
func find(image []byte) (place, error) {
	if _, err := ChipOf(image); err != nil {
		return place{}, err
	}
	list, err := sections(image)
	if err != nil {
		return place{}, err
	}
	conf := func(s section) bool { return s.name == confName && s.at < readOnlySize+partitionSize }
	i := slices.IndexFunc(list, func(s section) bool { return conf(s) && s.at >= readOnlySize })
	if i < 0 {
		i = slices.IndexFunc(list, conf)
	}
	if i < 0 {
		return place{}, hint.With(errors.New(confName+" not found in the image"),
			"use an image of a bootloader, such as pieeprom-2026-08-04.bin of raspberrypi/rpi-eeprom")
	}
	s := list[i]
	if s.length < textAt-headSize {
		return place{}, fmt.Errorf("damaged image: the section of %s at byte %d has %d bytes, want at least %d", confName, s.at,
			s.length, textAt-headSize)
	}
	// The bootloader writes to the last sector by itself.
	end := min(len(image)-eraseSize, readOnlySize+partitionSize)
	for _, next := range list[i+1:] {
		if next.magic != magicPad {
			end = min(end, next.at)
			break
		}
	}
	return place{at: s.at, text: s.at + textAt, length: s.length - (textAt - headSize), end: end, last: i == len(list)-1}, nil
}

// Config returns the configuration in an image.
func Config(image []byte) (string, error) {
	p, err := find(image)
	if err != nil {
		return "", err
	}
	return string(image[p.text : p.text+p.length]), nil
}

// Update returns an image with Options in its configuration. Other settings stay;
// so do settings for single boards, which come first and are overridden.
func Update(image []byte, o Options) ([]byte, error) {
	list, err := o.settings()
	if err != nil {
		return nil, err
	}
	text, err := Config(image)
	if err != nil {
		return nil, err
	}
	return replace(image, merged(text, list))
}

// replace returns an image with another configuration, byte for byte as
// rpi-eeprom-config makes it: padding up to the next section keeps what follows
// within reach of a reader that goes from section to section.
func replace(image []byte, text string) ([]byte, error) {
	p, err := find(image)
	if err != nil {
		return nil, err
	}
	if room := min(maxFile, p.end-p.text); len(text) > room {
		err := fmt.Errorf("the configuration is too large for the image: got %d bytes, want at most %d", len(text), max(room, 0))
		return nil, hint.With(err, "remove lines from it with rpi-eeprom-config")
	}
	out := slices.Clone(image)
	binary.BigEndian.PutUint32(out[p.at+4:], uint32(p.text-p.at-headSize+len(text)))
	rest := out[p.text+copy(out[p.text:p.end], text) : p.end]
	for i := range rest {
		rest[i] = 0xff
	}
	// Nothing follows the last section.
	if at := (p.text + len(text) + 7) &^ 7; at+headSize <= p.end && !p.last {
		binary.BigEndian.PutUint32(out[at:], magicPad)
		binary.BigEndian.PutUint32(out[at+4:], uint32(p.end-at-headSize))
	}
	return out, nil
}

var builtForm = regexp.MustCompile(`BUILD_TIMESTAMP=([0-9]{1,11})`)

// Lacks returns the features that a bootloader is too old for, a text for each. It
// returns an error for an image that cannot boot from the network at all. An image
// without a date lacks nothing, as far as is known.
func Lacks(image []byte) ([]string, error) {
	chip, err := ChipOf(image)
	if err != nil {
		return nil, err
	}
	m := builtForm.FindSubmatch(image)
	if m == nil {
		return nil, nil
	}
	seconds, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		return nil, err
	}
	built := time.Unix(seconds, 0).UTC().Format(time.DateOnly)
	var lacks []string
	for _, c := range changes() {
		switch {
		case c.chip != chip || built >= c.date:
		case c.need:
			err := fmt.Errorf("the image is of %s, and a bootloader of a Pi %s starts from the network from %s on", built, chip.boards(), c.date)
			return nil, hint.With(err, "use a newer image")
		default:
			lacks = append(lacks, fmt.Sprintf("the image is of %s; from %s on it %s", built, c.date, c.what))
		}
	}
	return lacks, nil
}

// Digest returns the file pieeprom.sig of an update, in the form of
// rpi-eeprom-digest: the digest of the update, its Unix time and the chip. A
// bootloader installs an update by itself if its time is later than the
// installed one's.
func Digest(update []byte, made int64) ([]byte, error) {
	chip, err := ChipOf(update)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(update)
	return fmt.Appendf(nil, "%s\nts: %d\ntarget-soc: %s\n", hex.EncodeToString(sum[:]), made, chip), nil
}
