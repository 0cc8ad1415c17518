// Package roster decides which machines a boot server starts, and as which
// node of an inventory: by what the inventory lists and by what people adopted.
package roster

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/host/bootserver"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// Roster is an inventory as a boot server sees it. Its fields do not change
// after Read.
type Roster struct {
	Doc      *nodeconfig.Document // an inventory
	Adopted  *bootserver.Records[bootserver.Adoption]
	Keys     *provision.Keys    // decrypt the inventory's secrets
	Default  string             // reference of the image for machines that name no channel
	Images   *bootserver.Images // of which the stream of a machine's image is read
	Unlisted bool               // start machines that are neither listed nor adopted, too

	entries  []entry // what the server reads of each entry of the inventory
	defaults entry

	adopting sync.Mutex // held from looking whether an entry is free until it is taken
}

type entry struct {
	channel string     // upgrades.channel; "" for none
	address netip.Addr // on eth0, in the network of the server; zero for none
}

// Read reads the inventory and the adoptions once. own is the server's address
// and network.
func (r *Roster) Read(own netip.Prefix) error {
	one := func(m nodeconfig.Machine) (entry, error) {
		c, err := r.Doc.For(m, "", nil)
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
	for _, n := range r.Doc.Inventory.Nodes {
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

// unique returns an error where two machines have the same entry: adoptions are
// files, which people copy and merge.
func (r *Roster) unique() error {
	owner := map[string]string{}
	for serial, a := range r.Adopted.All() {
		if a.As == "" {
			continue
		}
		if other, ok := owner[a.As]; ok {
			err := fmt.Errorf("%s: serials %s and %s are both adopted as %s",
				r.Adopted.Dir, min(serial, other), max(serial, other), a.As)
			return hint.With(err, "remove the file of the wrong machine")
		}
		owner[a.As] = serial
		for _, n := range r.Doc.Inventory.Nodes {
			if n.Hostname == a.As && (n.Serial != "" && !sameSerial(n.Serial, serial) || n.MAC != "" && n.MAC != a.MAC) {
				err := fmt.Errorf("%s: serial %s is adopted as %s, which is another machine in the inventory", r.Adopted.Dir, serial, a.As)
				return hint.With(err, "remove the file of the adoption, or the serial and hardware address from the inventory")
			}
		}
	}
	return nil
}

// sameSerial reports whether a serial of the inventory, of eight or all sixteen
// digits, is the one that firmware sends, which is the last eight.
func sameSerial(inventory, short string) bool {
	return inventory[max(0, len(inventory)-8):] == short
}

// wired is the network device that a Pi boots from.
const wired = "eth0"

// References returns the references of all images that are served, the default
// one first.
func (r *Roster) References() []string {
	list := []string{r.Default}
	for _, e := range append(slices.Clone(r.entries), r.defaults) {
		if e.channel != "" && !slices.Contains(list, e.channel) {
			list = append(list, e.channel)
		}
	}
	return list
}

// machine returns the key of a machine in the inventory, and the index of its
// entry; -1 for none. Where an adoption or an entry names a serial and a hardware
// address, only a machine with both matches.
func (r *Roster) machine(m bootserver.Machine) (nodeconfig.Machine, int) {
	machine := machineOf(m)
	machine.Unlisted = r.Unlisted
	for _, n := range r.Doc.Inventory.Nodes {
		if n.Serial != "" && sameSerial(n.Serial, m.Serial) {
			machine.Serial = n.Serial // which may have more digits
		}
	}
	if a, ok := r.Adopted.Find(m.Serial); ok {
		if a.MAC != "" && a.MAC != m.MAC {
			return machine, -1
		}
		machine.Name = a.As
	}
	i, err := r.Doc.Find(machine)
	if err == nil && machine.Name == "" {
		switch n := r.Doc.Inventory.Nodes[i]; {
		case n.MAC != "" && n.MAC != m.MAC:
			return machine, -1
		case n.Serial != "" && m.Serial != "" && !sameSerial(n.Serial, m.Serial):
			machine.MAC = ""
			i, err = r.Doc.Find(machine)
		}
	}
	if err != nil {
		return machine, -1
	}
	return machine, i
}

func (r *Roster) entry(m bootserver.Machine) entry {
	if _, i := r.machine(m); i >= 0 {
		return r.entries[i]
	}
	return r.defaults
}

// Reference implements bootserver.Roster.
func (r *Roster) Reference(m bootserver.Machine) string { return r.entry(m).channel }

// Fixed returns the address that the inventory assigns to a machine.
func (r *Roster) Fixed(m bootserver.Machine) (netip.Addr, bool) {
	if _, i := r.machine(m); i >= 0 {
		return r.entries[i].address, r.entries[i].address.IsValid()
	}
	return netip.Addr{}, false
}

// Taken reports whether the inventory assigns an address to some machine.
func (r *Roster) Taken(a netip.Addr) bool {
	return slices.ContainsFunc(r.entries, func(e entry) bool { return e.address == a })
}

func machineOf(m bootserver.Machine) nodeconfig.Machine {
	return nodeconfig.Machine{Serial: m.Serial, MAC: m.MAC, Board: boards.OfModel(m.Model)}
}

// Known implements bootserver.Roster.
func (r *Roster) Known(m bootserver.Machine) (mac string, ok bool) {
	if a, ok := r.Adopted.Find(m.Serial); ok {
		return a.MAC, true
	}
	if mac := r.pinned(m.Serial); mac != "" {
		return mac, true
	}
	if _, i := r.machine(m); i >= 0 {
		return r.Doc.Inventory.Nodes[i].MAC, true
	}
	return "", r.Unlisted && m.Serial != ""
}

// Ending implements bootserver.Roster.
func (r *Roster) Ending(digits string) (serial string, ok bool) {
	serials := slices.Collect(maps.Keys(r.Adopted.All()))
	for _, n := range r.Doc.Inventory.Nodes {
		serials = append(serials, n.Serial)
	}
	return bootserver.EndingIn(digits, serials)
}

// pinned returns the hardware address that the inventory names beside a
// serial; "" for none.
func (r *Roster) pinned(serial string) string {
	for _, n := range r.Doc.Inventory.Nodes {
		if serial != "" && n.Serial != "" && sameSerial(n.Serial, serial) {
			return n.MAC
		}
	}
	return ""
}

// Config implements bootserver.Roster.
func (r *Roster) Config(m bootserver.Machine) ([]byte, error) {
	if mac, _ := r.Known(m); mac != "" && mac != m.MAC {
		return nil, nil // another machine
	}
	machine, i := r.machine(m)
	if i < 0 && machine.Name == "" && !r.Unlisted {
		return nil, nil // adopted as no entry of the inventory
	}
	stream := ""
	for _, reference := range []string{r.entry(m).channel, r.Default} {
		if img := r.Images.Current(reference); img != nil {
			stream = img.Stream
			break
		}
	}
	cfg, err := provision.Config(r.Doc, machine, stream, r.Keys)
	if err != nil {
		return nil, err
	}
	return provision.NodeFile(cfg)
}

// Free returns the hostnames of entries that name no machine, and that no
// machine was adopted as.
func (r *Roster) Free() []string {
	var names []string
	for _, n := range r.Doc.Inventory.Nodes {
		if n.Hostname != "" && n.Serial == "" && n.MAC == "" && bootserver.AdoptedAs(r.Adopted, n.Hostname) == "" {
			names = append(names, n.Hostname)
		}
	}
	return names
}

// Adopt adopts a machine as an entry of the inventory, or, where as is "", as no
// entry; from then on the machine must have its hardware address. An entry
// belongs to one machine: two with one identity and one volume would destroy
// the volume. A serial belongs to one machine too: another hardware address
// with the same serial does not take its place.
func (r *Roster) Adopt(m bootserver.Machine, as string) error {
	r.adopting.Lock()
	defer r.adopting.Unlock()
	if m.MAC == "" {
		return fmt.Errorf("adopting serial %s: missing hardware address", m.Serial)
	}
	if a, ok := r.Adopted.Find(m.Serial); ok && a.MAC != "" && a.MAC != m.MAC {
		err := fmt.Errorf("serial %s is already adopted, with hardware address %s", m.Serial, a.MAC)
		return hint.With(err, replaceHint)
	}
	if mac := r.pinned(m.Serial); mac != "" && mac != m.MAC {
		return fmt.Errorf("serial %s has another hardware address in the inventory: got %s, want %s", m.Serial, m.MAC, mac)
	}
	if err := r.mayBe(m, as); err != nil {
		return err
	}
	return r.Adopted.Put(m.Serial, bootserver.Adoption{As: as, MAC: m.MAC})
}

// replaceHint is the advice for replacing an adopted machine.
const replaceHint = "to replace that machine, remove its file from the adoptions in the state of the server first"

// mayBe returns an error for a machine that cannot become an entry. The
// caller holds the lock.
func (r *Roster) mayBe(m bootserver.Machine, as string) error {
	if as == "" || slices.Contains(r.Free(), as) {
		return nil
	}
	if !slices.ContainsFunc(r.Doc.Inventory.Nodes, func(n nodeconfig.Node) bool { return n.Hostname == as }) {
		return fmt.Errorf("node %q not found in the inventory", as)
	}
	switch owner := bootserver.AdoptedAs(r.Adopted, as); owner {
	case m.Serial:
		return nil
	case "":
		return fmt.Errorf("the inventory names the machine of node %q", as)
	default:
		return hint.With(fmt.Errorf("node %q is already serial %s", as, owner), replaceHint)
	}
}
