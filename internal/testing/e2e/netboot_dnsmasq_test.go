package e2e

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// linesOfPCs are what a network has for PCs that boot from another server.
const linesOfPCs = `dhcp-match=set:efi64,option:client-arch,7
dhcp-boot=tag:efi64,ipxe.efi,,10.77.0.60
dhcp-match=set:bios,option:client-arch,0
dhcp-boot=tag:bios,undionly.kpxe,,10.77.0.60
`

// dnsmasqNamesIt tests the lines of pikelet eeprom --dnsmasq in a real dnsmasq,
// which PCs boot by too: Pis and nodes hear of the boot server, and what a PC is
// told stays as it was (raspberrypi/rpi-eeprom#182).
func dnsmasqNamesIt(t *testing.T, image string) {
	l := newLAN(t)
	lines, err := exec.Command("../../../build/pikelet", "eeprom", "--dnsmasq", "--server", vm.LANAddress).Output()
	if err != nil {
		t.Fatal(err)
	}
	l.router(linesOfPCs + string(lines))
	l.serve(image, "nodes: [{serial: '00000003'}, {serial: '00000033'}, {serial: '00000005'}]\n", "--no-dhcp")
	for _, model := range []string{"3", "3+", "5"} {
		serial, _ := strconv.ParseUint(strings.ReplaceAll(model, "+", "3"), 16, 32)
		rom, _ := l.pi(model, uint32(serial))
		if got, err := rom.Boot(context.Background()); err != nil || len(got.Kernel) == 0 {
			t.Errorf("model %s: %v", model, err)
		}
	}
	if got := l.udhcpc("-V", bootapi.Class); !containsAll(got, servedToNode...) {
		t.Errorf("a node's /init is told\n%s", got)
	}
	const bios, efi = "PXEClient:Arch:00000:UNDI:002001", "PXEClient:Arch:00007:UNDI:003016"
	const uuid = "000102030405060708090a0b0c0d0e0f"
	for name, c := range map[string]struct {
		class, arch, id string
		file, server    string
		menu            bool
	}{
		"a PC with UEFI":                     {efi, "0007", uuid, "ipxe.efi", "10.77.0.60", false},
		"a PC with a BIOS":                   {bios, "0000", uuid, "undionly.kpxe", "10.77.0.60", false},
		"a Pi of another block of addresses": {bios, "0000", "5250693500000000aabbccdd11223344", "bootcode.bin", vm.LANAddress, true},
		"a tag that is back to front":        {bios, "0000", "34695052000000000000000011223344", "bootcode.bin", vm.LANAddress, true},
		"a 3B":                               {bios, "0000", strings.Repeat("44", 16), "bootcode.bin", vm.LANAddress, true},
	} {
		got := l.udhcpc("-V", c.class, "-x", "0x5d:"+c.arch, "-x", "0x61:00"+c.id)
		if !strings.Contains(got, "boot_file='"+c.file+"'") || !strings.Contains(got, "siaddr='"+c.server+"'") ||
			strings.Contains(got, "opt43=") != c.menu {
			t.Errorf("%s is told\n%s", name, got)
		}
	}
}
