package bootserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/host/bootserver/tftp"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Prefixes of names that a Pi asks for (docs/platform.md 3.4, 3.5): the serial, or
// the hardware address with dashes.
var (
	serialPrefix = regexp.MustCompile(`^([0-9a-f]{8})/`)
	macPrefix    = regexp.MustCompile(`^([0-9a-f]{2}(?:-[0-9a-f]{2}){5})/`)
)

// never matches the names of EEPROM updates, which are not served: bootloaders
// flash themselves with such files (docs/platform.md 3.5).
var never = regexp.MustCompile(`^(pieeprom\..*|recovery\.bin)$`)

// firstStage is the file that the boot ROM of a Pi 3 asks for, without a prefix:
// its DHCP messages do not name the serial either.
const firstStage = "bootcode.bin"

// asked splits a name that a client asks for into the machine of its prefix, if it
// has one, and the name of the file.
func asked(name string) (m Machine, file string) {
	name = strings.TrimLeft(name, "/")
	if p := serialPrefix.FindStringSubmatch(name); p != nil {
		return Machine{Serial: p[1]}, name[len(p[0]):]
	}
	if p := macPrefix.FindStringSubmatch(name); p != nil {
		return Machine{MAC: strings.ReplaceAll(p[1], "-", ":")}, name[len(p[0]):]
	}
	return Machine{}, name
}

// onNet returns the file of an image that firmware asks for by a name; ok is false
// where there is none, and for files that are not served to firmware.
func onNet(m *image.Manifest, name string) (image.File, bool) {
	if name == slots.CmdlineFile {
		name = slots.Net.CmdlineFile()
	} else if strings.HasPrefix(name, "cmdline-") {
		return image.File{}, false
	}
	if name == image.RootFile || never.MatchString(path.Base(name)) {
		return image.File{}, false
	}
	return m.File(name)
}

// betweenBoots is the time after a complete boot from which on a request belongs
// to a new boot. DHCP announces new boots, but a Pi may have the address of the
// server in its EEPROM.
const betweenBoots = 20 * time.Second

// errNoMAC is returned for clients behind a router, and for forged senders:
// without a hardware address the receiver of an answer is unknown.
var errNoMAC = errors.New("unknown hardware address of the client: it must be in the network of the boot server")

// requester returns which machine asks, and for which file. The hardware
// address is the one that answers go to, never the one that a request names.
func (s *Server) requester(client netip.Addr, name string) (m Machine, file string, err error) {
	m, file = asked(name)
	mac := s.MACOf(client)
	switch {
	case mac == "":
		return m, file, errNoMAC
	case m.MAC != "" && m.MAC != mac:
		return m, file, fmt.Errorf("the client has hardware address %s, and asks as %s", mac, m.MAC)
	}
	m.MAC = mac
	return m, file, nil
}

// share returns the share of the transfers that a request belongs to, by the
// standing of the client: neither strangers nor machines listed by their serial
// can use up the transfers of machines whose hardware address is known.
func (s *Server) share(client netip.Addr, name string) int {
	m, _, err := s.requester(client, name)
	if err != nil {
		return int(stranger)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes.find(m); n != nil {
		m.Serial, m.Model = cmp.Or(m.Serial, n.Serial), n.Model
	}
	return int(s.standing(m))
}

// shares are the limits of concurrent transfers, by the standing of the client.
var shares = []int{stranger: 64, listed: 64, pinned: 128}

// open opens the file that a TFTP client asks for. All files of a boot are of the
// same image, even if another one becomes the current image meanwhile.
func (s *Server) open(client netip.Addr, name string) (tftp.File, int64, error) {
	m, file, err := s.requester(client, name)
	if err != nil {
		s.log(slog.LevelWarn, "tftp", "refused a request", "client", client, "err", err)
		return nil, 0, &tftp.Error{Code: tftp.CodeDenied, Message: "unknown client"}
	}
	if !fs.ValidPath(file) {
		return nil, 0, &tftp.Error{Code: tftp.CodeDenied, Message: "invalid path"}
	}
	s.mu.Lock()
	n := s.seen(m, "asks for "+file)
	n.IP = client.String()
	// The serial of a first stage comes with what it asks for next.
	served := n.Adopted || n.Serial == "" && file == firstStage
	img := s.Images.Current(s.Reference)
	if n.Adopted {
		s.lines[n.standing].heard(n.MAC, s.Now())
		if n.build == "" || n.complete && s.Now().Sub(n.served) > betweenBoots {
			n.begins()
			is, held := s.imageFor(n.Machine)
			if is != nil {
				n.build = is.BuildID
			}
			s.holds(n, held)
		}
		img = s.Images.built(n.build)
	}
	s.mu.Unlock()
	if !served {
		return nil, 0, errors.New("the machine is not adopted")
	}
	if img == nil {
		return nil, 0, errors.New("the image of the machine is not available")
	}
	f, ok := onNet(img.Manifest, file)
	if !ok {
		return nil, 0, fs.ErrNotExist
	}
	opened, err := openFile(img, f)
	if err != nil {
		s.log(slog.LevelError, "tftp", "opening a file failed", "client", client, "file", file, "err", err)
		return nil, 0, err
	}
	return opened, f.Size, nil
}

func (s *Server) serveTFTP(ctx context.Context, conn *net.UDPConn) error {
	server := tftp.Server{Open: s.open, Done: s.sent, Now: s.Now, Share: s.share, Shares: shares}
	return server.Serve(ctx, conn)
}

// sent records the outcome of a transfer. A boot is served when the firmware has
// all of the initramfs.
func (s *Server) sent(t tftp.Transfer) {
	m, file, err := s.requester(t.Client, t.Name)
	whole := t.Err == nil && t.Aborted == "" && t.Sent == t.Size
	var began Machine
	var digest string
	s.mu.Lock()
	s.counts.bytes += t.Sent
	s.counts.again += int64(t.Again)
	if !whole && t.Aborted == "" && t.Sent > 0 {
		s.counts.failed++
	}
	if n := s.nodes.find(m); err == nil && n != nil && whole {
		n.Stage = Printable("has "+file, maxStage)
		if n.Adopted && n.has(file, t.Client, s.Now()) {
			s.done(n.MAC)
			s.counts.boots++
			if img := s.Images.built(n.build); img != nil {
				began, digest = n.Machine, img.Digest
			}
		} else if n.Adopted {
			s.lines[n.standing].heard(n.MAC, s.Now())
		}
	}
	s.mu.Unlock()
	if digest != "" && began.Serial != "" {
		s.note(began, func(h Health) Health { return h.started(digest) })
	}
	switch {
	case whole:
		s.log(slog.LevelInfo, "tftp", "sent a file", "client", t.Client, "file", t.Name, "bytes", t.Size, "took",
			t.Took.Round(time.Millisecond), "resent", t.Again)
	case t.Aborted == "" && t.Sent > 0:
		s.log(slog.LevelWarn, "tftp", "sending a file failed", "client", t.Client, "file", t.Name, "sent", t.Sent, "bytes", t.Size, "err", t.Err)
	}
}

// has records that the firmware of a machine has all of a file, and reports
// whether it now has both kernel and initramfs. Their order differs between
// models; files after them are small.
func (n *Node) has(file string, client netip.Addr, now time.Time) bool {
	n.kernel = n.kernel || file == image.KernelFile
	if file == image.InitramfsFile {
		n.served, n.from, n.claimed, n.Error = now, client, false, ""
		n.initramfs = true
	}
	if !n.kernel || !n.initramfs {
		return false
	}
	n.kernel, n.initramfs, n.complete = false, false, true
	return true
}
