package cli

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/pikelet-os/pikelet/internal/host/bootserver"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// roster is an inventory as a boot server sees it.
type roster struct {
	doc       *nodeconfig.Document
	adopted   *bootserver.Records[bootserver.Adoption]
	keys      *provision.Keys
	reference string // of what is served to those that name no channel
	images    *bootserver.Images
	unlisted  bool

	entries  []entry // what the server reads of each entry of the inventory
	defaults entry

	adopting sync.Mutex // held from looking whether an entry is free until it is taken
}

type entry struct {
	channel string     // upgrades.channel; "" for none
	address netip.Addr // on eth0, in the network of the server; zero for none
}

// read looks through the inventory once. own is the server's address and
// network.
func (r *roster) read(own netip.Prefix) error {
	one := func(m nodeconfig.Machine) (entry, error) {
		c, err := r.doc.For(m, "", nil)
		if err != nil {
			return entry{}, err
		}
		e := entry{channel: c.Upgrades.Channel}
		for _, i := range c.Network.Interfaces {
			if i.Name != wired || e.address.IsValid() {
				continue
			}
			for _, a := range i.Addresses {
				p, err := netip.ParsePrefix(a)
				if err != nil || !own.Contains(p.Addr()) || p.Addr() == own.Addr() { // that is this machine's entry
					continue
				}
				e.address = p.Addr()
				break
			}
		}
		return e, nil
	}
	for _, n := range r.doc.Inventory.Nodes {
		e, err := one(nodeconfig.Machine{Serial: n.Serial, MAC: n.MAC, Board: n.Board, Name: n.Hostname})
		if err != nil {
			return err
		}
		r.entries = append(r.entries, e)
	}
	var err error
	if r.defaults, err = one(nodeconfig.Machine{Unlisted: true}); err != nil {
		return err
	}
	return r.unique()
}

// unique returns an error where two machines would have one entry: adoptions
// are files, which people copy and merge.
func (r *roster) unique() error {
	owner := map[string]string{}
	for serial, a := range r.adopted.All() {
		if a.As == "" {
			continue
		}
		if other, ok := owner[a.As]; ok {
			return fmt.Errorf("%s: serials %s and %s are both adopted as %s; remove the file of the one that is not",
				r.adopted.Dir, min(serial, other), max(serial, other), a.As)
		}
		owner[a.As] = serial
		for _, n := range r.doc.Inventory.Nodes {
			if n.Hostname == a.As && (n.Serial != "" && !sameSerial(n.Serial, serial) || n.MAC != "" && n.MAC != a.MAC) {
				return fmt.Errorf("%s: serial %s is adopted as %s, and the inventory says that %s is another machine; remove one of the two",
					r.adopted.Dir, serial, a.As, a.As)
			}
		}
	}
	return nil
}

// sameSerial reports whether a serial of the inventory, of eight digits or of
// all sixteen, is the one that firmware says, which is the last eight.
func sameSerial(inventory, short string) bool {
	return inventory[max(0, len(inventory)-8):] == short
}

// wired is the network device that a Pi boots from.
const wired = "eth0"

// references returns what is served.
func (r *roster) references() []string {
	list := []string{r.reference}
	for _, e := range append(slices.Clone(r.entries), r.defaults) {
		if e.channel != "" && !slices.Contains(list, e.channel) {
			list = append(list, e.channel)
		}
	}
	return list
}

// machine returns how the inventory is asked for a machine, and which entry it
// takes; -1 for none. Where an adoption or an entry names a serial and a
// hardware address, only a machine that has both is the one that is meant.
func (r *roster) machine(m bootserver.Machine) (nodeconfig.Machine, int) {
	machine := machineOf(m)
	machine.Unlisted = r.unlisted
	for _, n := range r.doc.Inventory.Nodes {
		if n.Serial != "" && sameSerial(n.Serial, m.Serial) {
			machine.Serial = n.Serial // which may have more digits
		}
	}
	if a, ok := r.adopted.Find(m.Serial); ok {
		if a.MAC != "" && a.MAC != m.MAC {
			return machine, -1
		}
		machine.Name = a.As
	}
	i, err := r.doc.Find(machine)
	if err == nil && machine.Name == "" {
		switch n := r.doc.Inventory.Nodes[i]; {
		case n.MAC != "" && n.MAC != m.MAC:
			return machine, -1
		case n.Serial != "" && m.Serial != "" && !sameSerial(n.Serial, m.Serial):
			machine.MAC = ""
			i, err = r.doc.Find(machine)
		}
	}
	if err != nil {
		return machine, -1
	}
	return machine, i
}

func (r *roster) entry(m bootserver.Machine) entry {
	if _, i := r.machine(m); i >= 0 {
		return r.entries[i]
	}
	return r.defaults
}

// Reference implements bootserver.Roster.
func (r *roster) Reference(m bootserver.Machine) string { return r.entry(m).channel }

// fixed returns the address that an entry gives a machine.
func (r *roster) fixed(m bootserver.Machine) (netip.Addr, bool) {
	if _, i := r.machine(m); i >= 0 {
		return r.entries[i].address, r.entries[i].address.IsValid()
	}
	return netip.Addr{}, false
}

// taken says whether an address is one that an entry gives.
func (r *roster) taken(a netip.Addr) bool {
	return slices.ContainsFunc(r.entries, func(e entry) bool { return e.address == a })
}

// boardOf names the board that firmware calls itself (docs/platform.md 3.2).
var boardOf = map[string]string{"RPi4": "rpi4", "RPi5": "rpi5"}

func machineOf(m bootserver.Machine) nodeconfig.Machine {
	return nodeconfig.Machine{Serial: m.Serial, MAC: m.MAC, Board: boardOf[m.Model]}
}

// Known implements bootserver.Roster.
func (r *roster) Known(m bootserver.Machine) (mac string, ok bool) {
	if a, ok := r.adopted.Find(m.Serial); ok {
		return a.MAC, true
	}
	if mac := r.pinned(m.Serial); mac != "" {
		return mac, true
	}
	if _, i := r.machine(m); i >= 0 {
		return r.doc.Inventory.Nodes[i].MAC, true
	}
	return "", r.unlisted && m.Serial != ""
}

// Ending implements bootserver.Roster.
func (r *roster) Ending(digits string) (serial string, ok bool) {
	serials := slices.Collect(maps.Keys(r.adopted.All()))
	for _, n := range r.doc.Inventory.Nodes {
		serials = append(serials, n.Serial)
	}
	return bootserver.EndingIn(digits, serials)
}

// pinned returns the hardware address that the inventory names beside a
// serial; "" for none.
func (r *roster) pinned(serial string) string {
	for _, n := range r.doc.Inventory.Nodes {
		if serial != "" && n.Serial != "" && sameSerial(n.Serial, serial) {
			return n.MAC
		}
	}
	return ""
}

// Config implements bootserver.Roster.
func (r *roster) Config(m bootserver.Machine) ([]byte, error) {
	if mac, _ := r.Known(m); mac != "" && mac != m.MAC {
		return nil, nil // it is another machine
	}
	machine, i := r.machine(m)
	if i < 0 && machine.Name == "" && !r.unlisted {
		return nil, nil // it was adopted as nobody of the inventory
	}
	stream := ""
	for _, reference := range []string{r.entry(m).channel, r.reference} {
		if img := r.images.Current(reference); img != nil {
			stream = img.Stream
			break
		}
	}
	cfg, err := provision.Config(r.doc, machine, stream, r.keys)
	if err != nil {
		return nil, err
	}
	return provision.NodeFile(cfg)
}

// free returns the names of entries that say of no machine that it is theirs,
// and that none was adopted as.
func (r *roster) free() []string {
	var names []string
	for _, n := range r.doc.Inventory.Nodes {
		if n.Hostname != "" && n.Serial == "" && n.MAC == "" && bootserver.AdoptedAs(r.adopted, n.Hostname) == "" {
			names = append(names, n.Hostname)
		}
	}
	return names
}

// adopt takes a machine, which is held to its hardware address from then on. An
// entry is one machine's: two with one identity and one volume would destroy
// it. And a serial is one machine's: who says it from another hardware address
// does not take its place.
func (r *roster) adopt(m bootserver.Machine, as string) error {
	r.adopting.Lock()
	defer r.adopting.Unlock()
	if m.MAC == "" {
		return fmt.Errorf("adopting serial %s: want the hardware address that is shown beside it", m.Serial)
	}
	if a, ok := r.adopted.Find(m.Serial); ok && a.MAC != "" && a.MAC != m.MAC {
		return fmt.Errorf("serial %s is adopted already, with hardware address %s; "+
			"remove its file from the server's state to have another take its place", m.Serial, a.MAC)
	}
	if mac := r.pinned(m.Serial); mac != "" && mac != m.MAC {
		return fmt.Errorf("the inventory says that serial %s has hardware address %s, not %s", m.Serial, mac, m.MAC)
	}
	if err := r.mayBe(m, as); err != nil {
		return err
	}
	return r.adopted.Put(m.Serial, bootserver.Adoption{As: as, MAC: m.MAC})
}

// mayBe returns why a machine cannot become an entry; nil where it can. The
// caller holds the lock.
func (r *roster) mayBe(m bootserver.Machine, as string) error {
	if as == "" || slices.Contains(r.free(), as) {
		return nil
	}
	if !slices.ContainsFunc(r.doc.Inventory.Nodes, func(n nodeconfig.Node) bool { return n.Hostname == as }) {
		return fmt.Errorf("the inventory has no node %q", as)
	}
	switch owner := bootserver.AdoptedAs(r.adopted, as); owner {
	case m.Serial:
		return nil
	case "":
		return fmt.Errorf("the inventory says itself which machine %s is", as)
	default:
		return fmt.Errorf("%s is serial %s already; remove its file from the server's state to have another take its place", as, owner)
	}
}
