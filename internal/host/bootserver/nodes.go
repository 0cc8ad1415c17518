package bootserver

import (
	"cmp"
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
	Stage   string    `json:"stage"`             // the last stage it reached
	Release string    `json:"release,omitempty"` // that it reported
	Error   string    `json:"error,omitempty"`
	Last    time.Time `json:"last"` // when it was heard of
	// Held is why the machine is not served the current release; "" where it is.
	Held string `json:"held,omitempty"`
	// Conflict is how many other hardware addresses claim the same serial: at
	// most one of them owns it.
	Conflict int `json:"conflict,omitempty"`

	standing standing
	served   time.Time // when its firmware had all of the initramfs
	from     netip.Addr
	claimed  bool // on this boot
	// Whether its firmware has them, of what makes a boot a large one.
	kernel, initramfs bool
	complete          bool   // and it had both
	build             string // that it is served, from its firmware's first file on
}

// begins records that a boot begins.
func (n *Node) begins() {
	n.build, n.complete, n.kernel, n.initramfs = "", false, false, false
}

// standing orders machines by how hard they are to impersonate. A machine of lower
// standing never displaces one of higher standing.
type standing int

const (
	stranger standing = iota // neither listed nor adopted
	listed                   // by its serial alone, which any machine can claim
	pinned                   // with its hardware address
)

// standing returns the standing of a machine. Where the roster names a hardware
// address, a machine with another one is a stranger, whatever serial it claims.
func (s *Server) standing(m Machine) standing {
	mac, ok := s.Roster.Known(m)
	switch {
	case !ok || mac != "" && mac != m.MAC:
		return stranger
	case mac == "":
		return listed
	}
	return pinned
}

// maxNodes bounds the unknown machines that are kept.
const maxNodes = 4096

// pair identifies a machine. A serial alone does not: any machine can claim it.
type pair struct{ serial, mac string }

func (m Machine) pair() pair { return pair{m.Serial, m.MAC} }

// book holds the known machines. Anyone can add machines by the thousand, so every
// operation takes constant time.
type book struct {
	pairs  map[pair]*list.Element
	macs   map[string]*list.Element // of each hardware address, the one of the highest standing that was heard of last
	recent list.List                // of *Node, the one heard of last in front
}

func nodeAt(e *list.Element) *Node {
	if e == nil {
		return nil
	}
	return e.Value.(*Node)
}

// find returns a machine by its serial and its hardware address. Where one of
// the two serials is not known yet, the hardware address alone decides.
func (b *book) find(m Machine) *Node {
	if n := nodeAt(b.pairs[m.pair()]); n != nil {
		return n
	}
	if n := nodeAt(b.macs[m.MAC]); n != nil && (m.Serial == "" || n.Serial == "") {
		return n
	}
	return nil
}

// note records a message of a machine, and returns its node. is returns the
// standing of the machine, whose serial may be known from earlier messages.
func (b *book) note(m Machine, is func(Machine) standing) *Node {
	if b.pairs == nil {
		b.pairs, b.macs = map[pair]*list.Element{}, map[string]*list.Element{}
	}
	n := b.find(m)
	if n == nil {
		if b.recent.Len() >= maxNodes {
			b.forget()
		}
		n = &Node{Machine: Machine{MAC: m.MAC}}
	} else {
		b.remove(n)
	}
	n.Serial = cmp.Or(m.Serial, n.Serial)
	n.Model = cmp.Or(m.Model, n.Model)
	n.standing = is(n.Machine)
	n.Adopted = n.standing > stranger
	e := b.recent.PushFront(n)
	b.pairs[n.pair()] = e
	if other := nodeAt(b.macs[n.MAC]); other == nil || other.standing <= n.standing {
		b.macs[n.MAC] = e
	}
	return n
}

// forget drops the least recently seen machine of the lowest standing.
func (b *book) forget() {
	var least *Node
	for e := b.recent.Back(); e != nil; e = e.Prev() {
		n := nodeAt(e)
		if least == nil || n.standing < least.standing {
			least = n
		}
		if least.standing == stranger {
			break
		}
	}
	b.remove(least)
}

func (b *book) remove(n *Node) {
	e := b.pairs[n.pair()]
	b.recent.Remove(e)
	delete(b.pairs, n.pair())
	if b.macs[n.MAC] == e {
		delete(b.macs, n.MAC)
	}
}

// seen records a message of a machine, and returns its node. The caller holds the
// lock.
func (s *Server) seen(m Machine, stage string) *Node {
	n := s.nodes.note(m, s.standing)
	n.Last, n.Stage = s.Now(), Printable(stage, maxStage)
	return n
}

// machine returns the node with a serial and a hardware address.
func (s *Server) machine(m Machine) Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes.find(m); n != nil {
		return n.Machine
	}
	return m
}

// Nodes returns all machines, ordered by serial and hardware address.
func (s *Server) Nodes() []Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Node
	same := map[string]int{}
	for e := s.nodes.recent.Front(); e != nil; e = e.Next() {
		all = append(all, *nodeAt(e))
		same[nodeAt(e).Serial]++
	}
	for i, n := range all {
		if n.Serial != "" {
			all[i].Conflict = same[n.Serial] - 1
		}
	}
	slices.SortFunc(all, func(a, b Node) int {
		return strings.Compare(a.Serial+a.MAC, b.Serial+b.MAC)
	})
	return all
}
