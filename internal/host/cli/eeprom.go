package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/host/bootserver/dhcp"
	"github.com/pikelet-os/pikelet/internal/host/bootserver/eeprom"
	"github.com/pikelet-os/pikelet/internal/shared/atomicfile"
)

type eepromOptions struct {
	Order   string
	Server  string
	Image   string
	Out     string
	Dnsmasq bool
}

func newEEPROM(say *teller) *cobra.Command {
	var o eepromOptions
	c := &cobra.Command{
		Use:   "eeprom",
		Short: "Have the bootloader of a Pi 4 or 5 start from the network",
		Long: `Print the configuration with which the bootloader of a Pi 4 or 5 starts from the
network, for rpi-eeprom-config --edit. With --image, an image of a bootloader from
Raspberry Pi's rpi-eeprom, write pieeprom.upd and pieeprom.sig instead: on a FAT card
beside that repository's recovery.bin they update a Pi that starts from it.

With --dnsmasq print what dnsmasq needs where it is the network's DHCP server and names the
boot server itself; then start that with --no-dhcp.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runEEPROM(o, say) },
	}
	f := c.Flags()
	f.StringVar(&o.Order, "order", eeprom.DefaultOrder, "BOOT_ORDER, read from its last digit: 1 card, 2 network, 4 USB, 6 NVMe, f begin again")
	f.StringVar(&o.Server, "server", "", "address of the boot server, where DHCP does not say it")
	f.StringVar(&o.Image, "image", "", "image of a bootloader, such as pieeprom-2026-08-04.bin")
	f.StringVarP(&o.Out, "output", "o", ".", "folder for pieeprom.upd and pieeprom.sig")
	f.BoolVar(&o.Dnsmasq, "dnsmasq", false, "print the lines for dnsmasq.conf instead; wants --server")
	return c
}

func runEEPROM(o eepromOptions, say *teller) error {
	options := eeprom.Options{Order: o.Order}
	if o.Server != "" {
		var err error
		if options.Server, err = netip.ParseAddr(o.Server); err != nil {
			return usageError{fmt.Errorf("--server %q: want an IPv4 address", o.Server)}
		}
	}
	text, err := eeprom.Text(options)
	if err != nil {
		return usageError{err}
	}
	switch {
	case o.Dnsmasq && o.Server == "":
		return usageError{errors.New("--dnsmasq wants --server, the address of the boot server")}
	case o.Dnsmasq:
		fmt.Fprint(say.out, dhcp.Dnsmasq(options.Server))
		return nil
	case o.Image == "":
		fmt.Fprint(say.out, text)
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
		say.warning(o.Image + ": " + l)
	}
	sum, err := eeprom.Digest(update, time.Now().Unix())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return err
	}
	// Without its digest nothing takes an update, so that comes last.
	name, digest := filepath.Join(o.Out, "pieeprom.upd"), filepath.Join(o.Out, "pieeprom.sig")
	if err := atomicfile.Write(name, update, 0o644); err != nil {
		return err
	}
	if err := atomicfile.Write(digest, sum, 0o644); err != nil {
		return err
	}
	say.result(map[string]string{"update": name, "digest": digest},
		fmt.Sprintf("%s and %s are written; put both on a FAT card beside recovery.bin of the same rpi-eeprom and start the Pi from it; "+
			"recovery.bin writes the update, renames itself to recovery.000 and restarts the Pi, with no LED pattern of success: "+
			"remove the card when `vcgencmd bootloader_version` or the boot server shows the new one", name, digest))
	return nil
}
