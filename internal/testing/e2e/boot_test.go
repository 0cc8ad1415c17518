package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/testing/vm"
	"github.com/pikelet-os/pikelet/internal/tools/full"
)

func TestSlotABootsToLogin(t *testing.T) {
	t.Parallel()
	// With KASLR every fork costs two thirds more, under emulation, and a card
	// behind sdhci-pci twice as much; TestRaspi3bBootsToLogin has a card, too.
	// So make test looks at the machine that other tests go on with.
	p, disk := ready(t, small(t), "", 0), "/dev/vda"
	if full.Tests {
		p, disk = boot(t, newCard(t), func(o *vm.Options) { o.Card, o.KASLR = true, true }), "/dev/mmcblk0"
		p.expect("slot a (committed), root verified: dm-verity")
		p.prompt()
		p.works("dmesg | grep 'KASLR enabled'")
	}
	p.run("pikeletd status", "slot    a, committed, on "+disk, small(t).Manifest.Root.Hash, small(t).Digest)
	p.run("touch /usr/x", "Read-only file system")
	p.works("touch /etc/x /var/x")
	p.works("[ $(hostname) = small-52617370 ]")
	p.works("grep ' / ' /proc/self/mountinfo | grep shared:")
	p.works("kill -0 $(pidof pikelet-watchdog)")
	p.off()
}

func TestRaspi3bBootsToLogin(t *testing.T) {
	t.Parallel()
	p := boot(t, newCard(t), func(o *vm.Options) { o.Machine = "raspi3b" })
	p.expect("slot a (committed), root verified: dm-verity")
	p.prompt()
	p.run("cat /proc/device-tree/model", "Raspberry Pi 3 Model B")
	p.run("pikeletd status", "on /dev/mmcblk0")
	// This machine has no clock of its own, as no Pi before the 5 has.
	p.works(fmt.Sprintf("[ $(date +%%s) -ge %d ]", small(t).Manifest.Epoch))
	p.off()
}

func TestTwoCardsOfOneBuildAreRefused(t *testing.T) {
	t.Parallel()
	p := boot(t, newCard(t), func(o *vm.Options) { o.Second = newCard(t) })
	p.expect("THIS BOOT FAILED: finding the slot: /dev/vda and /dev/vdb both hold slot a of build "+small(t).Manifest.BuildID,
		"take one of them out")
}

// TestNoLoginWithoutOptIn boots an image whose spec does not
// ask for an open console, and asks for a root that is as small as it gets.
func TestNoLoginWithoutOptIn(t *testing.T) {
	t.Parallel()
	p := boot(t, variant(t, "console: root\n", "compression: small\n").Disk)
	p.expect("slot a (committed)", "login: ")
	for _, password := range []string{"", "root", "raspberry"} {
		p.run("root", "Password: ")
		p.run(password, "Starter root") // the next getty's banner: this login is over
		p.expect("login: ")
	}
	if strings.Contains(p.Output(), ":~# ") {
		t.Error("a login opened a shell")
	}
}

// TestBootContinuesWhenPrepareFails: a node that can be reached can be mended.
func TestBootContinuesWhenPrepareFails(t *testing.T) {
	t.Parallel()
	p := boot(t, variant(t, "console: root\n", "layers: [{folder: noprepare}]\n").Disk)
	p.expect("preparing the node failed", "slot a (committed), root verified", "Caching service dependencies")
}
