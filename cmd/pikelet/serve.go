package main

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
	"github.com/pikelet-os/pikelet/internal/host/cosign"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

type serveOptions struct {
	imageOptions
	node     nodeOptions
	Nodes    string
	Unlisted bool
	Device   string
	Cache    string
	Proxy    bool
	NoDHCP   bool
	Pool     string
	Router   string
	DNS      []string
	Port     uint16
	Most     int
	State    string
	Admin    string
	Token    string // the file
	Poll     time.Duration
}

func newServe(say *teller) *cobra.Command {
	var o serveOptions
	c := &cobra.Command{
		Use:   "serve REFERENCE",
		Short: "Start Pis that have no card, over the network",
		Long: `Start Pis that have no card, over the network: DHCP, TFTP and HTTP, from an image
in a registry, a layout or an archive. Who is started is who an inventory lists,
by serial or by Ethernet address, and each gets its own node config from there.
Pis that it does not list wait until they are adopted, on the status page or with
pikelet nodes adopt; with --unlisted they boot too, with the inventory's defaults.

A node whose config has upgrades.channel is started from that instead. A node that
its config gives an address on eth0 has it from its firmware on. Where a reference moves, as a channel does, nodes restart into the new release.
One that is not healthy on some node is not served to it again; that node goes
back to the last one that was.

With --proxy it stands beside the network's DHCP server, gives no addresses, and
is silent to machines that are no Pis. Otherwise it is that server, and gives
addresses of --pool.`,
		Args: exactly(1, "the image: a folder, or registry.example/name:tag"),
		RunE: func(c *cobra.Command, args []string) error { return runServe(c.Context(), args[0], o, say) },
	}
	o.imageOptions.addFlags(c)
	f := c.Flags()
	f.StringVar(&o.Nodes, "nodes", "", "the inventory: who is started, and each one's config (required)")
	f.StringVar(&o.node.identity, "identity", "", "file with age keys for the inventory's secrets (default: age.key in pikelet's configuration folder)")
	f.BoolVar(&o.Unlisted, "unlisted", false, "start Pis too that the inventory does not list, each with its defaults: whoever plugs one in has what is secret in them")
	f.StringVar(&o.Device, "interface", "", "the network device the Pis are behind, such as eth0 (required)")
	f.BoolVar(&o.Proxy, "proxy", false, "another server gives the addresses")
	f.BoolVar(&o.NoDHCP, "no-dhcp", false, "another server gives the addresses and names this one: see pikelet eeprom --dnsmasq")
	f.StringVar(&o.Pool, "pool", "", "the addresses to give, as 192.168.7.100-192.168.7.200")
	f.StringVar(&o.Router, "router", "", "the router to name to those that get an address")
	f.StringArrayVar(&o.DNS, "dns", nil, "a name server to name to them; may be given several times")
	f.Uint16Var(&o.Port, "port", bootapi.Port, "TCP port for nodes' requests; beside another DHCP server it must be the usual one")
	f.IntVar(&o.Most, "at-once", 10, "how many Pis boot at a time, when many ask; 0 is no bound")
	f.StringVar(&o.State, "state", "/var/lib/pikelet-serve", "folder for what the server must remember: who was adopted; fit for git")
	f.DurationVar(&o.Poll, "poll", time.Minute, "how often the reference is looked at; when it moves, nodes restart into the new release, each in its window")
	f.StringVar(&o.Admin, "admin", defaultAdmin, "where the status page, pikelet nodes and metrics are answered; off for nowhere")
	f.StringVar(&o.Token, "admin-token", "", "file with the token that they must be asked with; required where --admin is not loopback")
	f.StringVar(&o.Cache, "cache", "", "folder for images from registries (default: pikelet in your cache folder)")
	return c
}

func runServe(ctx context.Context, ref string, o serveOptions, say *teller) error {
	switch {
	case o.Nodes == "":
		return usageError{errors.New("--nodes is missing: pikelet node init writes an inventory to start from")}
	case o.Device == "":
		return usageError{errors.New("--interface is missing: the network device the Pis are behind")}
	case one(o.Proxy, o.NoDHCP, o.Pool != "") != 1:
		return usageError{errors.New("want one of --proxy, where another server gives the addresses, --no-dhcp, where that one names this server too, and --pool FIRST-LAST")}
	case o.Pool == "" && o.Port != bootapi.Port:
		return usageError{fmt.Errorf("beside another DHCP server the port must be %d", bootapi.Port)}
	}
	doc, err := provision.Load(o.Nodes)
	if errors.Is(err, fs.ErrNotExist) {
		return usageError{fmt.Errorf("--nodes: %w; pikelet node init writes an inventory to start from", err)}
	}
	if err != nil {
		return err
	}
	if doc.Inventory == nil {
		return usageError{fmt.Errorf("%s is the config of one node; want an inventory", o.Nodes)}
	}
	warnOfK3s(doc, say)
	keys, err := o.node.keys()
	if err != nil {
		return err
	}
	own, err := ownAddress(o.Device)
	if err != nil {
		return err
	}
	s := &bootserver.Server{Reference: ref, IP: own.Addr(), Port: o.Port, Most: o.Most, Now: time.Now, MACOf: bootserver.Neighbour, Log: say.logger()}
	if o.Pool != "" {
		if s.Pool, err = o.pool(own); err != nil {
			return err
		}
	}
	s.Images, s.Health = &bootserver.Images{}, &bootserver.Records[bootserver.Health]{Dir: filepath.Join(o.State, "health")}
	if err := s.Health.Load(); err != nil {
		return err
	}
	r := &roster{doc: doc, keys: keys, reference: ref, images: s.Images, unlisted: o.Unlisted,
		adopted: &bootserver.Records[bootserver.Adoption]{Dir: filepath.Join(o.State, "adopted")}}
	if err := r.adopted.Load(); err != nil {
		return err
	}
	if err := r.read(own); err != nil {
		return err
	}
	lib := o.library(s.Images, say)
	defer lib.close()
	if err := lib.start(ctx, ref, r.references()); err != nil {
		return err
	}
	lib.former(ctx, s.Health)
	s.Roster = r
	if s.Pool != nil {
		s.Pool.Fixed, s.Pool.Taken = r.fixed, r.taken
	}
	l, err := o.listen(s.IP)
	if err != nil {
		return err
	}
	admin, token, err := o.admin()
	if err != nil {
		return err
	}
	img := s.Images.Current(ref)
	say.line(fmt.Sprintf("serving %s %s to the %d nodes of %s, on %s (%s)", img.Stream, img.Release, len(doc.Inventory.Nodes), o.Nodes, o.Device, s.IP))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.Serve(ctx, l) })
	if admin != nil {
		a := &bootserver.Admin{Server: s, Token: token, Adopt: r.adopt, Free: r.free}
		group.Go(func() error { return a.ServeAdmin(ctx, admin) })
	}
	group.Go(func() error {
		lib.watch(ctx, r.references(), o.Poll)
		return nil
	})
	return group.Wait()
}

// warnOfK3s warns of what the desk would refuse, too: a server that has served
// an inventory goes on with it.
func warnOfK3s(doc *nodeconfig.Document, say *teller) {
	warnings, err := doc.CheckK3s()
	if err != nil {
		warnings = append(warnings, err.Error())
	}
	for _, w := range warnings {
		say.warning(w)
	}
}

// library returns what brings images for a server.
func (o *serveOptions) library(images *bootserver.Images, say *teller) *library {
	memory := filepath.Join(o.State, "served.yaml")
	return &library{open: o.open, keys: o.downgradeKeys, cache: o.Cache, say: say, images: images, memory: memory}
}

// downgradeKeys returns the keys whose statements let a channel go back: those
// that sign what comes from a registry.
func (o *serveOptions) downgradeKeys() ([]*ecdsa.PublicKey, error) {
	if len(o.Keys) > 0 {
		return cosign.ReadPublicKeys(o.Keys)
	}
	keys, _, err := trustedKeys()
	return keys, err
}

// one counts what is true.
func one(list ...bool) (n int) {
	for _, is := range list {
		if is {
			n++
		}
	}
	return n
}

// ownAddress returns this machine's first IPv4 address on a device, with its
// network.
func ownAddress(device string) (netip.Prefix, error) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return netip.Prefix{}, usageError{fmt.Errorf("--interface %s: %w; this machine has %s", device, err, strings.Join(devices(), ", "))}
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
	return netip.Prefix{}, fmt.Errorf("--interface %s: it has no IPv4 address; give it one that stays", device)
}

// devices are the names of this machine's network devices.
func devices() (names []string) {
	list, _ := net.Interfaces() // it is for a hint
	for _, i := range list {
		names = append(names, i.Name)
	}
	return names
}

// pool reads the addresses that are given away.
func (o serveOptions) pool(own netip.Prefix) (*bootserver.Pool, error) {
	bad := func(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }
	first, last, ok := strings.Cut(o.Pool, "-")
	p := &bootserver.Pool{Network: dhcp.Network{Bits: own.Bits()}}
	var err1, err2 error
	p.First, err1 = netip.ParseAddr(first)
	p.Last, err2 = netip.ParseAddr(last)
	if !ok || err1 != nil || err2 != nil || !p.First.Is4() || !p.Last.Is4() || p.Last.Less(p.First) {
		return nil, bad("--pool %q: want two addresses, as 192.168.7.100-192.168.7.200", o.Pool)
	}
	if !own.Contains(p.First) || !own.Contains(p.Last) {
		return nil, bad("--pool %s: it is not in the network of --interface %s, %s", o.Pool, o.Device, own.Masked())
	}
	if !own.Addr().Less(p.First) && !p.Last.Less(own.Addr()) {
		return nil, bad("--pool %s: it holds %s, which is this machine's own", o.Pool, own.Addr())
	}
	if o.Router != "" {
		if p.Router, err1 = netip.ParseAddr(o.Router); err1 != nil || !own.Contains(p.Router) {
			return nil, bad("--router %q: want an address in %s", o.Router, own.Masked())
		}
	}
	for _, d := range o.DNS {
		a, err := netip.ParseAddr(d)
		if err != nil || !a.Is4() {
			return nil, bad("--dns %q: want an IPv4 address", d)
		}
		p.DNS = append(p.DNS, a)
	}
	return p, nil
}

// admin opens the listener of the admin's pages; nil for none.
func (o serveOptions) admin() (net.Listener, string, error) {
	if o.Admin == "off" {
		return nil, "", nil
	}
	at, err := netip.ParseAddrPort(o.Admin)
	if err != nil {
		return nil, "", usageError{fmt.Errorf("--admin %q: want an address and a port, such as %s", o.Admin, defaultAdmin)}
	}
	token, err := readToken(o.Token)
	if err != nil {
		return nil, "", err
	}
	if token == "" && !at.Addr().IsLoopback() {
		return nil, "", usageError{fmt.Errorf("--admin %s: others reach it there; name a file with a token by --admin-token (openssl rand -hex 32)", o.Admin)}
	}
	l, err := net.Listen("tcp", o.Admin)
	return l, token, err
}

// minToken is how many characters a token has at least.
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
		return "", fmt.Errorf("%s: want one word of at least %d characters that nobody guesses: openssl rand -hex 32", file, minToken)
	}
	return token, nil
}

// listen opens the sockets of a server.
func (o serveOptions) listen(ip netip.Addr) (l bootserver.Listeners, err error) {
	why := func(what string, err error) error {
		return fmt.Errorf("listening for %s: %w; is another server running here, and may you open ports below 1024 (root, or CAP_NET_BIND_SERVICE and CAP_NET_RAW)?", what, err)
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
			return l, fmt.Errorf("giving addresses of --pool: %w", err)
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
