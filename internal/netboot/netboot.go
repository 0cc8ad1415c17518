// Package netboot starts machines without a card: it answers their DHCP and
// TFTP, gives their /init the image and the node config, and knows how far
// each one is. What it serves are artifacts as they are; what is per node
// comes by serial.
package netboot

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/internal/netboot/plane"
)

// Image is an artifact whose blobs are files of a folder.
type Image struct {
	*artifact.Manifest
	Text      []byte // the manifest's bytes
	Signature []byte // signature.json
	Digest    string // of the OCI manifest
	Blobs     string // the folder that holds sha256 digests in hexadecimal digits
}

// open opens a file of the image.
func (i *Image) open(f artifact.File) (*os.File, error) {
	file, err := os.Open(filepath.Join(i.Blobs, strings.TrimPrefix(f.Digest, "sha256:")))
	if err != nil {
		return nil, err
	}
	if st, err := file.Stat(); err != nil || st.Size() != f.Size {
		file.Close()
		return nil, fmt.Errorf("%s of %s %s is damaged in %s", f.Name, i.Stream, i.Release, i.Blobs)
	}
	return file, nil
}

// Machine is what a boot shows of the machine, as far as it goes.
type Machine struct {
	Serial string `json:"serial,omitempty"` // eight hexadecimal digits in lower case
	MAC    string `json:"mac,omitempty"`    // lower case, with colons
	Model  string `json:"model,omitempty"`  // such as RPi4
}

// Roster says which machines are served, and what makes each one itself.
type Roster interface {
	// Known says whether a machine is adopted, and which address it must have
	// where that is said.
	Known(Machine) (mac string, ok bool)
	// Config returns the config of one machine; nil where it has none.
	Config(Machine) ([]byte, error)
}

// claimTime is how long after its firmware had the last file a node may ask
// for its config: a kernel's start, and a switch port that takes half a minute
// to open.
const claimTime = 120 * time.Second

// Server is a boot server. Its fields do not change while it runs.
type Server struct {
	Images *Images
	Health *Records[Health]
	Roster Roster
	IP     netip.Addr // where it is reached in the network it serves
	Port   uint16     // of the boot plane, TCP
	Pool   *Pool      // nil beside another DHCP server
	Most   int        // boots at a time; 0 is no bound

	Now func() time.Time
	// MACOf returns the hardware address of a neighbour; "" where it is not
	// known.
	MACOf func(netip.Addr) string
	Log   func(string)

	mu     sync.Mutex
	nodes  map[string]*Node // by serial, or by MAC until the serial is known
	line   line
	counts counts
}

// Node is what the server knows of a machine.
type Node struct {
	Machine
	IP      string    `json:"ip,omitempty"`
	Adopted bool      `json:"adopted"`
	Stage   string    `json:"stage"`             // what it did last
	Release string    `json:"release,omitempty"` // that it reported
	Error   string    `json:"error,omitempty"`
	Last    time.Time `json:"last"` // when it was heard of

	served  time.Time // when its firmware had all of the initramfs
	from    netip.Addr
	claimed bool // on this boot
	// Whether its firmware has them, of what makes a boot a large one.
	kernel, initramfs bool
	complete          bool   // and it had both
	build             string // that it is served, from its firmware's first file on
}

// maxNodes bounds what is remembered of machines nobody knows.
const maxNodes = 4096

// seen notes that a machine was heard of, and returns what is known of it. The
// caller holds the lock.
func (s *Server) seen(m Machine, stage string) *Node {
	if s.nodes == nil {
		s.nodes = map[string]*Node{}
	}
	n := s.find(m)
	if n == nil {
		if len(s.nodes) >= maxNodes {
			s.forget()
		}
		n = &Node{Machine: m}
	}
	delete(s.nodes, n.key())
	if m.Serial != "" {
		n.Serial = m.Serial
	}
	if m.MAC != "" {
		n.MAC = m.MAC
	}
	if m.Model != "" {
		n.Model = m.Model
	}
	_, n.Adopted = s.Roster.Known(n.Machine)
	n.Last, n.Stage = s.Now(), stage
	s.nodes[n.key()] = n
	return n
}

func (n *Node) key() string {
	if n.Serial != "" {
		return n.Serial
	}
	return n.MAC
}

// find returns a machine by its serial, else by its address.
func (s *Server) find(m Machine) *Node {
	if n := s.nodes[m.Serial]; n != nil && m.Serial != "" {
		return n
	}
	if m.MAC == "" {
		return nil
	}
	for _, n := range s.nodes {
		if n.MAC == m.MAC && (m.Serial == "" || n.Serial == "" || n.Serial == m.Serial) {
			return n
		}
	}
	return nil
}

// forget drops the machine that was heard of least lately, of those that are
// not adopted where there are some.
func (s *Server) forget() {
	var oldest *Node
	for _, n := range s.nodes {
		if oldest == nil || oldest.Adopted && !n.Adopted || oldest.Adopted == n.Adopted && n.Last.Before(oldest.Last) {
			oldest = n
		}
	}
	delete(s.nodes, oldest.key())
}

// Nodes returns what is known of each machine, by serial.
func (s *Server) Nodes() []Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Node
	for _, n := range s.nodes {
		list = append(list, *n)
	}
	slices.SortFunc(list, func(a, b Node) int { return strings.Compare(a.key(), b.key()) })
	return list
}

// claim decides whether a node gets its config: it is adopted, it asks from
// where its firmware was just served, within a while, and for the first time
// on this boot. Its error says why not.
func (s *Server) claim(m plane.Machine, from netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	machine := Machine{Serial: short(m.Serial), MAC: m.MAC}
	mac, ok := s.Roster.Known(machine)
	n := s.nodes[machine.Serial]
	err := func() error {
		actual := s.MACOf(from)
		switch {
		case !ok:
			return fmt.Errorf("serial %s is not adopted", machine.Serial)
		case n == nil || n.served.IsZero():
			return fmt.Errorf("no boot of serial %s was served from here", machine.Serial)
		case from != n.from:
			return fmt.Errorf("the boot of serial %s was served to %s, not to %s", machine.Serial, n.from, from)
		case m.MAC != n.MAC || actual != n.MAC || mac != "" && mac != n.MAC:
			return fmt.Errorf("the boot of serial %s was served to %s, not to %s", machine.Serial, n.MAC, actual)
		case s.Now().Sub(n.served) > claimTime:
			return fmt.Errorf("the boot of serial %s was served %v ago, more than %v", machine.Serial, s.Now().Sub(n.served).Round(time.Second), claimTime)
		case n.claimed:
			return fmt.Errorf("the config of serial %s was claimed on this boot already", machine.Serial)
		}
		n.claimed = true
		return nil
	}()
	if err != nil && n != nil {
		n.Error = "a claim of its config was refused: " + err.Error()
	}
	return err
}

// short returns the last eight digits of a serial, which tell boards apart
// (FACTS 4).
func short(serial string) string { return serial[max(0, len(serial)-8):] }

// Listeners are the sockets a server answers on. DHCP may be nil.
type Listeners struct {
	DHCP net.PacketConn
	TFTP *net.UDPConn
	HTTP net.Listener
}

// Serve answers until ctx ends, or one of the listeners fails.
func (s *Server) Serve(ctx context.Context, l Listeners) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	parts := []func() error{
		func() error { return s.serveTFTP(ctx, l.TFTP) },
		func() error { return serveHTTP(ctx, l.HTTP, s.Plane()) },
	}
	if l.DHCP != nil {
		parts = append(parts, func() error { return s.serveDHCP(ctx, l.DHCP) })
	}
	failed := make(chan error, len(parts))
	for _, p := range parts {
		go func() { failed <- p() }()
	}
	var err error
	for range parts {
		if e := <-failed; e != nil && err == nil {
			err = e
		}
		stop()
	}
	return err
}
