package main

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/pikelet-os/pikelet/internal/desk"
	"github.com/pikelet-os/pikelet/internal/netboot"
	"github.com/pikelet-os/pikelet/internal/node/config"
)

// roster is an inventory as a boot server sees it.
type roster struct {
	doc       *config.Document
	adopted   *netboot.Records[netboot.Adoption]
	keys      *desk.Keys
	reference string // of what is served to those that name no channel
	images    *netboot.Images
	unlisted  bool

	entries  []entry // what the server reads of each entry of the inventory
	defaults entry
}

type entry struct {
	channel string     // upgrades.channel; "" for none
	address netip.Addr // on eth0, in the network of the server; zero for none
}

// read looks through the inventory once. own is the server's address and
// network.
func (r *roster) read(own netip.Prefix) error {
	one := func(m config.Machine) (entry, error) {
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
		e, err := one(config.Machine{Serial: n.Serial, MAC: n.MAC, Board: n.Board, Name: n.Hostname})
		if err != nil {
			return err
		}
		r.entries = append(r.entries, e)
	}
	var err error
	r.defaults, err = one(config.Machine{Unlisted: true})
	return err
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
// takes; -1 for none.
func (r *roster) machine(m netboot.Machine) (config.Machine, int) {
	machine := machineOf(m)
	machine.Unlisted = r.unlisted
	if a, ok := r.adopted.Find(m.Serial); ok {
		machine.Name = a.As
	}
	i, err := r.doc.Find(machine)
	if err != nil {
		return machine, -1
	}
	return machine, i
}

func (r *roster) entry(m netboot.Machine) entry {
	if _, i := r.machine(m); i >= 0 {
		return r.entries[i]
	}
	return r.defaults
}

// Reference implements netboot.Roster.
func (r *roster) Reference(m netboot.Machine) string { return r.entry(m).channel }

// fixed returns the address that an entry gives a machine.
func (r *roster) fixed(m netboot.Machine) (netip.Addr, bool) {
	if _, i := r.machine(m); i >= 0 {
		return r.entries[i].address, r.entries[i].address.IsValid()
	}
	return netip.Addr{}, false
}

// taken says whether an address is one that an entry gives.
func (r *roster) taken(a netip.Addr) bool {
	return slices.ContainsFunc(r.entries, func(e entry) bool { return e.address == a })
}

// boardOf names the board that firmware calls itself (FACTS 3.2).
var boardOf = map[string]string{"RPi4": "rpi4", "RPi5": "rpi5"}

func machineOf(m netboot.Machine) config.Machine {
	return config.Machine{Serial: m.Serial, MAC: m.MAC, Board: boardOf[m.Model]}
}

// Known implements netboot.Roster.
func (r *roster) Known(m netboot.Machine) (mac string, ok bool) {
	if a, ok := r.adopted.Find(m.Serial); ok {
		return a.MAC, true
	}
	if _, i := r.machine(m); i >= 0 {
		return r.doc.Inventory.Nodes[i].MAC, true
	}
	return "", r.unlisted && m.Serial != ""
}

// Config implements netboot.Roster.
func (r *roster) Config(m netboot.Machine) ([]byte, error) {
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
	cfg, err := desk.Config(r.doc, machine, stream, r.keys)
	if err != nil {
		return nil, err
	}
	return desk.NodeFile(cfg)
}

// free returns the names of entries that say of no machine that it is theirs,
// and that none was adopted as.
func (r *roster) free() []string {
	var names []string
	for _, n := range r.doc.Inventory.Nodes {
		if n.Hostname != "" && n.Serial == "" && n.MAC == "" && netboot.AdoptedAs(r.adopted, n.Hostname) == "" {
			names = append(names, n.Hostname)
		}
	}
	return names
}

// adopt takes a machine. An entry is one machine's: two with one identity and
// one volume would destroy it.
func (r *roster) adopt(m netboot.Machine, as string) error {
	if as != "" && !slices.Contains(r.free(), as) {
		for _, n := range r.doc.Inventory.Nodes {
			switch {
			case n.Hostname != as:
			case netboot.AdoptedAs(r.adopted, as) == m.Serial:
				return r.adopted.Put(m.Serial, netboot.Adoption{As: as, MAC: m.MAC})
			case netboot.AdoptedAs(r.adopted, as) != "":
				return fmt.Errorf("%s is serial %s already; remove its file from the server's state to have another take its place", as, netboot.AdoptedAs(r.adopted, as))
			default:
				return fmt.Errorf("the inventory says itself which machine %s is", as)
			}
		}
		return fmt.Errorf("the inventory has no node %q", as)
	}
	return r.adopted.Put(m.Serial, netboot.Adoption{As: as, MAC: m.MAC})
}
