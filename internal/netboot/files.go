package netboot

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/internal/netboot/tftp"
	"github.com/pikelet-os/pikelet/internal/slots"
)

// Prefixes a Pi puts before names (FACTS 3.4, 3.5): its serial, or its address
// with dashes.
var (
	serialPrefix = regexp.MustCompile(`^([0-9a-f]{8})/`)
	macPrefix    = regexp.MustCompile(`^([0-9a-f]{2}(?:-[0-9a-f]{2}){5})/`)
)

// never are names of an EEPROM's update: bootloaders flash themselves with what
// they find under them (FACTS 3.5).
var never = regexp.MustCompile(`^(pieeprom\..*|recovery\.bin)$`)

// firstStage is what the boot ROM of a Pi 3 asks for, without a prefix: not even
// its DHCP said who it is.
const firstStage = "bootcode.bin"

// asked splits what a client asks for into who it is, as far as its prefix
// says, and the file's name.
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

// onNet returns the file of an artifact that firmware asks for by a name; ok
// is false for what there is not, and for what firmware has no business with.
func onNet(m *artifact.Manifest, name string) (artifact.File, bool) {
	if name == slots.CmdlineFile {
		name = slots.Net.CmdlineFile()
	} else if strings.HasPrefix(name, "cmdline-") {
		return artifact.File{}, false
	}
	if name == artifact.RootFile || never.MatchString(path.Base(name)) {
		return artifact.File{}, false
	}
	return m.File(name)
}

// betweenBoots is how long after a boot was complete what its firmware asks for
// is another's: where DHCP is seen, that tells a new boot, but a Pi may be told
// its server by its EEPROM.
const betweenBoots = 20 * time.Second

// open opens what a client of TFTP asks for. All files of a boot are of one
// image, whatever becomes the current one meanwhile.
func (s *Server) open(client netip.Addr, name string) (tftp.File, int64, error) {
	m, file := asked(name)
	if mac := s.MACOf(client); m.MAC == "" {
		m.MAC = mac
	}
	if !fs.ValidPath(file) {
		return nil, 0, &tftp.Error{Code: tftp.CodeDenied, Message: "there is no such place"}
	}
	s.mu.Lock()
	if known := s.nodes.find(m); known != nil && m.Serial == "" {
		m.Serial = known.Serial
	}
	var served bool
	img := s.Images.Current(s.Reference)
	if m != (Machine{}) {
		n := s.seen(m, "asks for "+file)
		n.IP, served = client.String(), n.Adopted
		s.line.heard(n.MAC, s.Now())
		if n.build == "" || n.complete && s.Now().Sub(n.served) > betweenBoots {
			n.begins()
			if is := s.imageFor(n.Machine); is != nil {
				n.build = is.BuildID
			}
		}
		img = s.Images.built(n.build)
	}
	s.mu.Unlock()
	if m.Serial == "" && file == firstStage {
		served = true // the serial comes with what it asks for next
	}
	if !served {
		return nil, 0, fmt.Errorf("it is not adopted")
	}
	if img == nil {
		return nil, 0, fmt.Errorf("what it is to run is not at hand")
	}
	f, ok := onNet(img.Manifest, file)
	if !ok {
		return nil, 0, fs.ErrNotExist
	}
	opened, err := img.open(f)
	if err != nil {
		s.tell("tftp", err.Error())
		return nil, 0, err
	}
	return opened, f.Size, nil
}

func (s *Server) serveTFTP(ctx context.Context, conn *net.UDPConn) error {
	server := tftp.Server{Open: s.open, Done: s.sent, Now: s.Now}
	return server.Serve(ctx, conn)
}

// sent notes what a transfer came to. A boot is served when the firmware has
// all of the initramfs, and a new one begins with that.
func (s *Server) sent(t tftp.Transfer) {
	m, file := asked(t.Name)
	if m.MAC == "" {
		m.MAC = s.MACOf(t.Client)
	}
	whole := t.Err == nil && t.Aborted == "" && t.Sent == t.Size
	var began, digest string
	s.mu.Lock()
	s.counts.bytes += t.Sent
	s.counts.again += int64(t.Again)
	if !whole && t.Aborted == "" && t.Sent > 0 {
		s.counts.failed++
	}
	if n := s.nodes.find(m); n != nil && whole {
		s.line.heard(n.MAC, s.Now())
		n.Stage = "has " + file
		n.kernel = n.kernel || file == artifact.KernelFile
		if file == artifact.InitramfsFile {
			n.served, n.from, n.claimed, n.Error = s.Now(), t.Client, false, ""
			n.initramfs = true
		}
		// Which of the two comes last differs; what comes then is small.
		if n.kernel && n.initramfs {
			n.kernel, n.initramfs, n.complete = false, false, true
			s.line.done(n.MAC)
			s.counts.boots++
			if img := s.Images.built(n.build); img != nil {
				began, digest = n.Serial, img.Digest
			}
		}
	}
	s.mu.Unlock()
	if began != "" {
		s.note(began, func(h Health) Health { return h.started(digest) })
	}
	switch {
	case whole:
		s.tell("tftp", fmt.Sprintf("%s has %s: %d bytes in %.2f s, %d packets again", t.Client, t.Name, t.Size, t.Took.Seconds(), t.Again))
	case t.Aborted == "" && t.Sent > 0:
		s.tell("tftp", fmt.Sprintf("%s: %s ended after %d of %d bytes: %v", t.Client, t.Name, t.Sent, t.Size, t.Err))
	}
}
