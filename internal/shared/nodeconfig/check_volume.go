package nodeconfig

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"strings"
)

func (c *checker) iscsi(field string, s ISCSI) {
	if s.Initiator != "" {
		c.iqn(field+".initiator", s.Initiator)
	}
	seen := map[string]bool{}
	for i, t := range s.Targets {
		at := fmt.Sprintf("%s.targets[%d]", field, i)
		c.iqn(at+".name", t.Name)
		if seen[t.Name] {
			c.Add(at+".name", "duplicate target %s; give one target several portals instead", t.Name)
		}
		seen[t.Name] = true
		if len(t.Portals) == 0 {
			c.Add(at+".portals", "none; want the address of the target, such as 10.0.0.5:3260")
		}
		for p, portal := range t.Portals {
			c.portal(fmt.Sprintf("%s.portals[%d]", at, p), portal)
		}
		c.chap(at+".chap", t.CHAP)
	}
	for i, d := range s.Discovery {
		at := fmt.Sprintf("%s.discovery[%d]", field, i)
		c.portal(at+".portal", d.Portal)
		c.chap(at+".chap", d.CHAP)
		if d.Login != nil {
			c.chap(at+".login", *d.Login)
		}
	}
}

func (c *checker) iqn(field, name string) {
	if len(name) > 223 || !iqnForm.MatchString(name) {
		c.Add(field, "%q: want a name such as iqn.2026-01.lan.nas:attic", shorten(name))
	}
}

func (c *checker) portal(field, text string) {
	if _, err := ParsePortal(text); err != nil {
		c.Add(field, "%v", err)
	}
}

// DefaultPort is where iSCSI targets listen (docs/platform.md 8.4).
const DefaultPort = 3260

// ParsePortal reads the address of a portal, and gives it the usual port
// where it names none. Addresses only: by-path links and node records name
// them, and a name may come to mean another.
func ParsePortal(text string) (netip.AddrPort, error) {
	if a, err := parseAddr(strings.Trim(text, "[]")); err == nil {
		return netip.AddrPortFrom(a, DefaultPort), nil
	}
	p, err := netip.ParseAddrPort(text)
	if err != nil || p.Port() == 0 || !zoneIsInterface(p.Addr()) {
		return p, fmt.Errorf("%q: want an address such as 10.0.0.5 or 10.0.0.5:3260", text)
	}
	return p, nil
}

func (c *checker) chap(field string, h CHAP) {
	pair := func(user, password, u, p string) {
		switch {
		case u == "" && p != "":
			c.Add(field+"."+user, "missing; a password needs one")
		case u != "" && p == "" && !c.public:
			c.Add(field+"."+password, "missing; a user needs one")
		}
		// RFC 7143 12.1.3: less than 96 bits is not to be used without IPsec.
		if p != "" && !IsEncrypted(p) && (len(p) < 12 || len(p) > 255 || strings.ContainsFunc(p, blank)) {
			c.Add(field+"."+password, "it has %d characters; want 12 or more (most targets: at most 16), without blanks", len(p))
		}
	}
	for _, user := range [][2]string{{"user", h.User}, {"mutual-user", h.MutualUser}} {
		if len(user[1]) > 255 || strings.ContainsFunc(user[1], blank) {
			c.Add(field+"."+user[0], "want a name of at most 255 bytes, without blanks or line ends")
		}
	}
	pair("user", "password", h.User, h.Password)
	pair("mutual-user", "mutual-password", h.MutualUser, h.MutualPassword)
	if h.MutualUser != "" && h.User == "" {
		c.Add(field+".user", "missing; mutual CHAP goes on top of CHAP")
	}
	if h.MutualPassword != "" && h.MutualPassword == h.Password {
		c.Add(field+".mutual-password", "it is the password of the other direction; targets refuse that")
	}
}

// blank reports whether a character is a blank or a control character: who logs
// in is written into a file of lines.
func blank(r rune) bool { return r <= ' ' || r == 0x7f }

func (c *checker) volume(field string, cfg *Config) {
	v := cfg.Volume
	only := func(name, place string, set bool) {
		if set && v.Place() != place {
			c.Add(field+"."+name, "goes with on: %s, and this volume is on %s", place, v.Place())
		}
	}
	only("device", OnDisk, v.Device != "")
	only("target", OnISCSI, v.Target != "")
	only("lun", OnISCSI, v.LUN != 0)
	only("size", OnMemory, v.Size != "")
	if v.Format != "" && v.Format != FormatBlank {
		c.Add(field+".format", "%q: want blank, or nothing", v.Format)
	} else if v.Format != "" && v.Place() != OnDisk && v.Place() != OnISCSI {
		c.Add(field+".format", "a volume on %s needs no formatting", v.Place())
	}
	if v.Size != "" && !sizeForm.MatchString(v.Size) {
		c.Add(field+".size", "%q: invalid size; want one such as 512MiB or 1GiB", v.Size)
	}
	if v.LUN < 0 || v.LUN > 16383 {
		c.Add(field+".lun", "%d: want 0 to 16383", v.LUN)
	}
	if v.Encryption != nil {
		c.encryption(field+".encryption", v)
	}
	switch v.Place() {
	case OnState, OnMemory:
	case OnDisk:
		c.device(field, v)
	case OnISCSI:
		if _, err := cfg.VolumeTarget(); err != nil {
			c.Add(field+".target", "%v", err)
		}
	default:
		c.Add(field+".on", "%q: want state, memory, disk or iscsi", v.On)
	}
}

// keyForm is a key of 256 bits. Only its shape can be looked at; what people
// think of themselves is a passphrase, which LUKS makes slow to guess.
var keyForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (c *checker) encryption(field string, v Volume) {
	e := *v.Encryption
	if v.Place() != OnDisk && v.Place() != OnISCSI {
		c.Add(field, "goes with on: disk or on: iscsi, and this volume is on %s", v.Place())
	}
	switch e.Source() {
	case KeyInConfig:
		if e.Key == "" && !c.public {
			c.Add(field+".key", "missing; want 64 hexadecimal digits (openssl rand -hex 32), or by: board or by: passphrase")
		}
	case KeyOfBoard, KeyPassphrase:
		if e.Key != "" {
			c.Add(field+".key", "goes with by: key, and this volume is opened by: %s", e.By)
		}
	default:
		c.Add(field+".by", "%q: want key, board or passphrase", e.By)
	}
	if e.Key != "" && !IsEncrypted(e.Key) && !keyForm.MatchString(e.Key) {
		c.Add(field+".key", "want 64 lower-case hexadecimal digits, as openssl rand -hex 32 makes them")
	}
}

// ByID is where udev links the names that disks have by what they say of
// themselves. Nodes have no links there, and find the disk from its name.
const ByID = "/dev/disk/by-id/"

// byIDForm is how udev writes those names that a node can find.
var byIDForm = regexp.MustCompile(`^` + ByID + `(ata|mmc|nvme|scsi|usb|wwn)-[A-Za-z0-9#+.:=@_-]+$`)

// uuidForm is the UUID of a filesystem, as blkid prints it.
var uuidForm = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

func (c *checker) device(field string, v Volume) {
	kind, value, named := strings.Cut(v.Device, "=")
	switch {
	case strings.HasPrefix(v.Device, ByID):
		if !byIDForm.MatchString(v.Device) {
			c.Add(field+".device", "%q: unsupported name; want one that begins with ata-, mmc-, nvme-, scsi-, usb- or wwn-", v.Device)
		}
	case strings.HasPrefix(v.Device, "/dev/disk/"):
		c.Add(field+".device", "%q: nodes have no links there; want a disk such as /dev/nvme0n1, its name in /dev/disk/by-id, "+
			"or LABEL=... or UUID=... of its ext4", v.Device)
	case strings.HasPrefix(v.Device, "/dev/"):
		if path.Clean(v.Device) != v.Device {
			c.Add(field+".device", "%q: want a disk such as /dev/nvme0n1", v.Device)
		}
	case named && kind == "LABEL" && value != "" && len(value) <= 16, named && kind == "UUID" && uuidForm.MatchString(value):
		if v.Format != "" {
			c.Add(field+".format", "a disk that is found by %s holds a filesystem already; format goes with the name of a device", kind)
		}
	default:
		c.Add(field+".device", "%q: want a disk such as /dev/nvme0n1, its name in /dev/disk/by-id, or LABEL=... or UUID=... of its ext4",
			v.Device)
	}
}

// VolumeTarget returns the iSCSI target the volume is on.
func (c *Config) VolumeTarget() (Target, error) {
	if c.Volume.Target == "" && len(c.ISCSI.Targets) == 1 {
		return c.ISCSI.Targets[0], nil
	}
	for _, t := range c.ISCSI.Targets {
		if t.Name == c.Volume.Target {
			return t, nil
		}
	}
	if c.Volume.Target == "" {
		return Target{}, fmt.Errorf("missing; iscsi.targets has %d, so name the one that holds the volume", len(c.ISCSI.Targets))
	}
	return Target{}, fmt.Errorf("%q: not found in iscsi.targets", c.Volume.Target)
}
