package netboot

import (
	"container/list"
	"net/netip"
	"slices"
	"strings"
	"time"
)

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

// begins notes that a boot begins.
func (n *Node) begins() {
	n.build, n.complete, n.kernel, n.initramfs = "", false, false, false
}

// maxNodes bounds what is remembered of machines nobody knows.
const maxNodes = 4096

// book is what is known of machines. Anybody can have it write down machines
// by the thousand, so nothing here takes longer the more there are.
type book struct {
	serials map[string]*list.Element
	macs    map[string]*list.Element // the one that was heard of last, of each hardware address
	recent  list.List                // of *Node, the one heard of last in front
}

// bySerial returns the machine of a serial; nil for one nobody heard of.
func (b *book) bySerial(serial string) *Node { return node(b.serials[serial]) }

func node(e *list.Element) *Node {
	if e == nil {
		return nil
	}
	return e.Value.(*Node)
}

// find returns a machine by its serial, else by its address: that of a serial
// only as long as no other serial was heard from there.
func (b *book) find(m Machine) *Node {
	if n := b.bySerial(m.Serial); n != nil {
		return n
	}
	if n := node(b.macs[m.MAC]); n != nil && (m.Serial == "" || n.Serial == "") {
		return n
	}
	return nil
}

// note writes down that a machine was heard of, and returns what is known of it.
func (b *book) note(m Machine) *Node {
	if b.serials == nil {
		b.serials, b.macs = map[string]*list.Element{}, map[string]*list.Element{}
	}
	n := b.find(m)
	if n == nil {
		if b.recent.Len() >= maxNodes {
			b.forget()
		}
		n = &Node{}
	} else {
		b.remove(n)
	}
	if m.Serial != "" {
		n.Serial = m.Serial
	}
	if m.MAC != "" {
		n.MAC = m.MAC
	}
	if m.Model != "" {
		n.Model = m.Model
	}
	e := b.recent.PushFront(n)
	if n.Serial != "" {
		b.serials[n.Serial] = e
	}
	if n.MAC != "" {
		b.macs[n.MAC] = e
	}
	return n
}

// forget drops the machine that was heard of least lately, of those that are
// not adopted where there are some.
func (b *book) forget() {
	for e := b.recent.Back(); e != nil; e = e.Prev() {
		if n := node(e); !n.Adopted {
			b.remove(n)
			return
		}
	}
	b.remove(node(b.recent.Back()))
}

func (b *book) remove(n *Node) {
	e := b.serials[n.Serial]
	if node(e) != n {
		e = b.macs[n.MAC]
	}
	b.recent.Remove(e)
	if b.serials[n.Serial] == e {
		delete(b.serials, n.Serial)
	}
	if b.macs[n.MAC] == e {
		delete(b.macs, n.MAC)
	}
}

// seen notes that a machine was heard of, and returns what is known of it. The
// caller holds the lock.
func (s *Server) seen(m Machine, stage string) *Node {
	n := s.nodes.note(m)
	_, n.Adopted = s.Roster.Known(n.Machine)
	n.Last, n.Stage = s.Now(), stage
	return n
}

// machine returns what is known of the machine of a serial.
func (s *Server) machine(serial string) Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes.bySerial(serial); n != nil {
		return n.Machine
	}
	return Machine{Serial: serial}
}

// Nodes returns what is known of each machine, by serial.
func (s *Server) Nodes() []Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Node
	for e := s.nodes.recent.Front(); e != nil; e = e.Next() {
		all = append(all, *node(e))
	}
	slices.SortFunc(all, func(a, b Node) int {
		return strings.Compare(a.Serial+a.MAC, b.Serial+b.MAC)
	})
	return all
}
