package cli

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/host/bootserver/dhcp"
	"github.com/pikelet-os/pikelet/internal/host/bootserver/eeprom"
	"github.com/pikelet-os/pikelet/internal/shared/atomicfile"
)

type eepromOptions struct {
	Order   string
	Server  string
	Image   string // of the bootloader
	Out     string
	Dnsmasq bool
}

func newEEPROM(a *app) *cobra.Command {
	var o eepromOptions
	c := &cobra.Command{
		Use:   "eeprom",
		Short: "Configure the bootloader of a Pi 4 or 5 to boot from the network",
		Long: `Print the configuration with which the bootloader of a Pi 4 or 5 boots from the
network, for rpi-eeprom-config --edit. With --bootloader, a bootloader image from
Raspberry Pi's rpi-eeprom repository, write pieeprom.upd and pieeprom.sig instead:
on a FAT card beside that repository's recovery.bin they update a Pi that boots
from the card.

With --dnsmasq, print the configuration for a dnsmasq that is the network's DHCP
server and names the boot server itself; start pikelet serve with --no-dhcp then.`,
		Example: `  pikelet eeprom --server 192.168.7.2
  pikelet eeprom --bootloader pieeprom-2026-08-04.bin -o /media/card
  pikelet eeprom --dnsmasq --server 192.168.7.2`,
		GroupID: groupBoot,
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return runEEPROM(o, a) },
	}
	f := c.Flags()
	f.StringVar(&o.Order, "order", eeprom.DefaultOrder, "BOOT_ORDER, read from its last digit: 1 card, 2 network, 4 USB, 6 NVMe, f restart")
	f.StringVar(&o.Server, "server", "", "`ADDRESS` of the boot server, where DHCP does not name it")
	f.StringVar(&o.Image, "bootloader", "", "bootloader image `FILE`, such as pieeprom-2026-08-04.bin")
	f.StringVarP(&o.Out, "output", "o", ".", "write pieeprom.upd and pieeprom.sig to `DIR`")
	f.BoolVar(&o.Dnsmasq, "dnsmasq", false, "print lines for dnsmasq.conf instead; requires --server")
	c.MarkFlagsMutuallyExclusive("dnsmasq", "bootloader")
	return c
}

func runEEPROM(o eepromOptions, a *app) error {
	options := eeprom.Options{Order: o.Order}
	if o.Server != "" {
		var err error
		if options.Server, err = netip.ParseAddr(o.Server); err != nil {
			return usagef("--server %q: want an IPv4 address", o.Server)
		}
	}
	text, err := eeprom.Text(options)
	if err != nil {
		return usageError{err}
	}
	switch {
	case o.Dnsmasq && o.Server == "":
		return usagef("--dnsmasq requires --server, the address of the boot server")
	case o.Dnsmasq:
		lines := dhcp.Dnsmasq(options.Server)
		a.result(map[string]string{"dnsmasq": lines}, strings.TrimSuffix(lines, "\n"))
		return nil
	case o.Image == "":
		a.result(map[string]string{"config": text}, strings.TrimSuffix(text, "\n"))
		return nil
	}
	image, err := os.ReadFile(o.Image)
	if err != nil {
		return err
	}
	update, err := eeprom.Update(image, options)
	if err != nil {
		return fmt.Errorf("%s: %w", o.Image, err)
	}
	lacks, err := eeprom.Lacks(image)
	if err != nil {
		return fmt.Errorf("%s: %w", o.Image, err)
	}
	for _, l := range lacks {
		a.log.Warn("bootloader lacks a feature", "bootloader", o.Image, "reason", l)
	}
	sum, err := eeprom.Digest(update, time.Now().Unix())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return err
	}
	// An update without its digest is ignored, so the digest is written last.
	name, digest := filepath.Join(o.Out, "pieeprom.upd"), filepath.Join(o.Out, "pieeprom.sig")
	if err := atomicfile.Write(name, update, 0o644); err != nil {
		return err
	}
	if err := atomicfile.Write(digest, sum, 0o644); err != nil {
		return err
	}
	a.result(map[string]string{"update": name, "digest": digest},
		fmt.Sprintf("%s and %s are written; put both on a FAT card beside recovery.bin of the same rpi-eeprom and start the Pi from it; "+
			"recovery.bin writes the update, renames itself to recovery.000 and restarts the Pi, with no LED pattern of success: "+
			"remove the card when `vcgencmd bootloader_version` or the boot server shows the new one", name, digest))
	return nil
}
