package cli

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pikelet-os/pikelet/internal/host/bootserver"
	"github.com/pikelet-os/pikelet/internal/host/bootserver/dhcp"
	"github.com/pikelet-os/pikelet/internal/host/bootserver/library"
	"github.com/pikelet-os/pikelet/internal/host/bootserver/roster"
	"github.com/pikelet-os/pikelet/internal/host/cosign"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

type serveOptions struct {
	imageOptions
	node      nodeOptions
	Inventory string
	Unlisted  bool
	Device    string
	Cache     string
	Proxy     bool
	NoDHCP    bool
	Pool      string
	Router    string
	DNS       []string
	Port      uint16
	Most      int
	State     string
	Admin     string
	Token     string // the file
	Poll      time.Duration
}

func newServe(a *app) *cobra.Command {
	var o serveOptions
	c := &cobra.Command{
		Use:   "serve REFERENCE",
		Short: "Boot Pis without a card over the network",
		Long: `Boot Pis without a card over the network, with DHCP, TFTP and HTTP, from an image
in a registry, a layout or an archive. The machines that an inventory lists, by
serial or by Ethernet address, boot, each with its own node config. Other Pis wait
until they are adopted, on the status page or with pikelet nodes adopt; with
--unlisted they boot too, with the inventory's defaults.

A node whose config has upgrades.channel boots the image of that channel instead.
A node whose config has an address on eth0 has the address from its firmware on.
When a reference moves, as channels do, nodes restart into the new release. A
release that is not healthy on a node is not served to that node again; the node
returns to the last release that was healthy.

With --proxy the server runs beside the network's DHCP server, assigns no
addresses, and ignores machines other than Pis. With --pool it is the DHCP server.
With --no-dhcp the network's DHCP server names this one.`,
		Example: `  pikelet serve registry.example/pi/homelab:stable --inventory nodes.yaml --interface eth0 --proxy
  pikelet serve out --inventory nodes.yaml --interface eth0 --pool 192.168.7.100-192.168.7.200`,
		GroupID: groupBoot,
		Args:    exactly(1, "the image: a directory, or registry.example/name:tag"),
		RunE:    func(c *cobra.Command, args []string) error { return runServe(c.Context(), args[0], o, a) },
	}
	o.imageOptions.addFlags(c, a)
	f := c.Flags()
	f.StringVar(&o.Inventory, "inventory", "", "`FILE` with the inventory: the machines that boot, and their configs")
	addIdentityFlag(c, &o.node.identity)
	f.BoolVar(&o.Unlisted, "unlisted", false, "also boot Pis that the inventory does not list, with its defaults: "+
		"whoever plugs one in has the secrets in them")
	f.StringVar(&o.Device, "interface", "", "network `INTERFACE` that the Pis are connected to, such as eth0")
	f.BoolVar(&o.Proxy, "proxy", false, "another DHCP server assigns the addresses")
	f.BoolVar(&o.NoDHCP, "no-dhcp", false, "another DHCP server assigns the addresses and names this server: see pikelet eeprom --dnsmasq")
	f.StringVar(&o.Pool, "pool", "", "address `RANGE` to assign, as 192.168.7.100-192.168.7.200")
	f.StringVar(&o.Router, "router", "", "`ADDRESS` of the router to announce")
	f.StringArrayVar(&o.DNS, "dns", nil, "`ADDRESS` of a name server to announce; repeatable")
	f.Uint16Var(&o.Port, "port", bootapi.Port, "TCP `PORT` for requests of nodes; must be the default beside another DHCP server")
	f.IntVar(&o.Most, "at-once", 10, "`NUMBER` of Pis that boot at the same time; 0 for no limit")
	f.StringVar(&o.State, "state", "/var/lib/pikelet-serve", "keep adoptions and health records in `DIR`, which may be a git work tree")
	f.DurationVar(&o.Poll, "poll", time.Minute, "how often references are checked for a new release")
	f.StringVar(&o.Admin, "admin", defaultAdmin, "`ADDRESS` of the status page, pikelet nodes and metrics; off for none")
	f.StringVar(&o.Token, "admin-token", "", "`FILE` with the token of --admin, required if that is not a loopback address")
	f.StringVar(&o.Cache, "cache", "", "keep images from registries in `DIR` (default: your cache directory)")
	required(c, "inventory")
	required(c, "interface")
	c.MarkFlagsOneRequired("proxy", "no-dhcp", "pool")
	c.MarkFlagsMutuallyExclusive("proxy", "no-dhcp", "pool")
	complete(c, "interface", completeInterface)
	return c
}

func runServe(ctx context.Context, ref string, o serveOptions, a *app) error {
	if o.Pool == "" && o.Port != bootapi.Port {
		return usagef("--port %d: beside another DHCP server the port must be %d", o.Port, bootapi.Port)
	}
	doc, err := o.inventory(a)
	if err != nil {
		return err
	}
	own, err := ownAddress(o.Device)
	if err != nil {
		return err
	}
	s := &bootserver.Server{Reference: ref, IP: own.Addr(), Port: o.Port, Most: o.Most,
		Now: time.Now, MACOf: bootserver.Neighbour, Log: a.log}
	if o.Pool != "" {
		if s.Pool, err = o.pool(own); err != nil {
			return err
		}
	}
	s.Images, s.Health = &bootserver.Images{}, &bootserver.Records[bootserver.Health]{Dir: filepath.Join(o.State, "health")}
	if err := s.Health.Load(); err != nil {
		return err
	}
	r, err := o.roster(doc, ref, s.Images, own)
	if err != nil {
		return err
	}
	s.Roster = r
	if s.Pool != nil {
		s.Pool.Fixed, s.Pool.Taken = r.Fixed, r.Taken
	}
	lib, err := o.library(s.Images, a)
	if err != nil {
		return err
	}
	defer lib.Close()
	if err := lib.Start(ctx, ref, r.References()); err != nil {
		return err
	}
	lib.AddHealthy(ctx, s.Health)
	l, err := o.listen(s.IP)
	if err != nil {
		return err
	}
	admin, token, err := o.admin()
	if err != nil {
		return err
	}
	img := s.Images.Current(ref)
	a.log.Info("serving", "stream", img.Stream, "release", img.Release, "nodes", len(doc.Inventory.Nodes),
		"inventory", o.Inventory, "interface", o.Device, "address", s.IP)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.Serve(ctx, l) })
	if admin != nil {
		pages := &bootserver.Admin{Server: s, Token: token, Adopt: r.Adopt, Free: r.Free}
		group.Go(func() error { return pages.ServeAdmin(ctx, admin) })
	}
	group.Go(func() error {
		lib.Watch(ctx, r.References(), o.Poll)
		return nil
	})
	return group.Wait()
}

// inventory reads the inventory. What pikelet node check refuses of k3s options
// is a warning here: a server that has served an inventory keeps serving it.
func (o *serveOptions) inventory(a *app) (*nodeconfig.Document, error) {
	doc, err := provision.Load(o.Inventory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint.With(usagef("--inventory: %w", err), "pikelet node init writes an inventory to start from")
	}
	if err != nil {
		return nil, err
	}
	if doc.Inventory == nil {
		return nil, usagef("--inventory %s: the file is the config of one node; want an inventory", o.Inventory)
	}
	warnings, err := doc.CheckK3s()
	for _, w := range warnings {
		a.log.Warn("k3s option is ignored", "problem", w)
	}
	if err != nil {
		a.log.Warn("inventory has options that k3s refuses", "err", err)
	}
	return doc, nil
}

// roster returns which machines of an inventory boot.
func (o *serveOptions) roster(doc *nodeconfig.Document, ref string, images *bootserver.Images, own netip.Prefix) (*roster.Roster, error) {
	keys, err := o.node.keys()
	if err != nil {
		return nil, err
	}
	r := &roster.Roster{Doc: doc, Keys: keys, Default: ref, Images: images, Unlisted: o.Unlisted,
		Adopted: &bootserver.Records[bootserver.Adoption]{Dir: filepath.Join(o.State, "adopted")}}
	if err := r.Adopted.Load(); err != nil {
		return nil, err
	}
	return r, r.Read(own)
}

// library returns what decides which images are served.
func (o *serveOptions) library(images *bootserver.Images, a *app) (*library.Library, error) {
	store, err := openCache(o.Cache)
	if err != nil {
		return nil, err
	}
	return &library.Library{Open: o.published, Keys: o.downgradeKeys, Cache: store, Images: images,
		Memory: filepath.Join(o.State, "served.yaml"), Meter: a.meter, Log: a.log}, nil
}

// downgradeKeys returns the keys whose statements allow a channel to downgrade:
// those that must sign images in a registry.
func (o *serveOptions) downgradeKeys() ([]*ecdsa.PublicKey, error) {
	if len(o.Keys) > 0 {
		return cosign.ReadPublicKeys(o.Keys)
	}
	keys, _, err := trustedKeys()
	return keys, err
}

// ownAddress returns this machine's first IPv4 address on a device, with its
// network.
func ownAddress(device string) (netip.Prefix, error) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		err = usagef("--interface %s: %w", device, err)
		return netip.Prefix{}, hint.With(err, "this machine has "+strings.Join(interfaces(), ", "))
	}
	list, err := i.Addrs()
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			return p, nil
		}
	}
	return netip.Prefix{}, hint.With(fmt.Errorf("--interface %s: no IPv4 address", device), "give it a static one")
}

// interfaces returns the names of this machine's network interfaces, for hints.
func interfaces() (names []string) {
	list, _ := net.Interfaces() // none on an error
	for _, i := range list {
		names = append(names, i.Name)
	}
	return names
}

// pool parses the range of addresses to assign.
func (o serveOptions) pool(own netip.Prefix) (*bootserver.Pool, error) {
	first, last, ok := strings.Cut(o.Pool, "-")
	p := &bootserver.Pool{Network: dhcp.Network{Bits: own.Bits()}}
	var err1, err2 error
	p.First, err1 = netip.ParseAddr(first)
	p.Last, err2 = netip.ParseAddr(last)
	if !ok || err1 != nil || err2 != nil || !p.First.Is4() || !p.Last.Is4() || p.Last.Less(p.First) {
		return nil, usagef("--pool %q: want two addresses, as 192.168.7.100-192.168.7.200", o.Pool)
	}
	if !own.Contains(p.First) || !own.Contains(p.Last) {
		return nil, usagef("--pool %s: outside the network of --interface %s, %s", o.Pool, o.Device, own.Masked())
	}
	if !own.Addr().Less(p.First) && !p.Last.Less(own.Addr()) {
		return nil, usagef("--pool %s: includes %s, the address of this machine", o.Pool, own.Addr())
	}
	if o.Router != "" {
		if p.Router, err1 = netip.ParseAddr(o.Router); err1 != nil || !own.Contains(p.Router) {
			return nil, usagef("--router %q: want an address in %s", o.Router, own.Masked())
		}
	}
	for _, d := range o.DNS {
		a, err := netip.ParseAddr(d)
		if err != nil || !a.Is4() {
			return nil, usagef("--dns %q: want an IPv4 address", d)
		}
		p.DNS = append(p.DNS, a)
	}
	return p, nil
}

// admin opens the admin listener; nil for none.
func (o serveOptions) admin() (net.Listener, string, error) {
	if o.Admin == "off" {
		return nil, "", nil
	}
	at, err := netip.ParseAddrPort(o.Admin)
	if err != nil {
		return nil, "", usagef("--admin %q: want an address and a port, such as %s", o.Admin, defaultAdmin)
	}
	token, err := readToken(o.Token)
	if err != nil {
		return nil, "", err
	}
	if token == "" && !at.Addr().IsLoopback() {
		err := usagef("--admin %s: an address that others can reach requires --admin-token", o.Admin)
		return nil, "", hint.With(err, "create a token: openssl rand -hex 32")
	}
	l, err := net.Listen("tcp", o.Admin)
	return l, token, err
}

// minToken is the minimum length of a token in characters.
const minToken = 16

// readToken reads a file with a token; "" for no file.
func readToken(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(b))
	if len(token) < minToken || strings.ContainsAny(token, " \t\n") {
		err := fmt.Errorf("reading the token: %s: want one word of at least %d characters", file, minToken)
		return "", hint.With(err, "create a random one: openssl rand -hex 32")
	}
	return token, nil
}

// listen opens the sockets of a server.
func (o serveOptions) listen(ip netip.Addr) (l bootserver.Listeners, err error) {
	why := func(what string, err error) error {
		return hint.With(fmt.Errorf("listening for %s: %w", what, err), "check that no other server is running here, "+
			"and that you may open ports below 1024 (root, or CAP_NET_BIND_SERVICE and CAP_NET_RAW)")
	}
	var opened []io.Closer
	defer func() {
		if err != nil {
			for _, c := range opened {
				c.Close()
			}
		}
	}()
	if !o.NoDHCP {
		if l.DHCP, err = server4.NewIPv4UDPConn(o.Device, &net.UDPAddr{Port: dhcpv4.ServerPort}); err != nil {
			return l, why("DHCP", err)
		}
		opened = append(opened, l.DHCP)
	}
	if o.Pool != "" {
		frames, err := dhcp.NewFrames(o.Device)
		if err != nil {
			return l, fmt.Errorf("opening a socket to assign addresses: %w", err)
		}
		l.Frames, opened = frames, append(opened, frames)
	}
	if l.TFTP, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 69))); err != nil {
		return l, why("TFTP", err)
	}
	opened = append(opened, l.TFTP)
	if l.HTTP, err = net.Listen("tcp4", netip.AddrPortFrom(ip, o.Port).String()); err != nil {
		return l, why("HTTP", err)
	}
	return l, nil
}
