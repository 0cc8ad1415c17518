// Package pikelet is the map of the code; it holds none.
//
// Pikelet builds immutable, A/B-upgradable k3s nodes for Raspberry Pi. Data
// flows one way, and each arrow is one function:
//
//	image.yaml ─ builder/spec.Load ─▶ spec.Image ─ builder.Resolve ─▶ Plan (= the lock) ─ Assemble ─▶ layers.Tree
//	    ─ Seal ─▶ Root ─ BootFiles ─▶ Boot ─ Pack ─▶ Artifact ─ card ─▶ disk.img
//	Artifact ─ publish ─▶ registry ─ pull, flash ─▶ card
//	disk.img ─▶ firmware ─▶ initramfs (/init) ─▶ internal/agent (pikeletd prepare) ─▶ OpenRC
//
// There are three sides, and deps_test.go holds them. Build packages run on a
// desk or in CI, device packages on a node, and shared packages describe what
// crosses from one to the other: each such byte is encoded and decoded in one
// file.
//
// Build side:
//
//   - cmd/pikelet, cmd/starter: start things, decide nothing
//   - builder (+ spec, lock, fetch, cache, device, inspect): spec to
//     artifact, stage by stage, and back again for people to look at
//   - layers (+ apk, oci, kmod, store, tarball): turn software into files of the
//     tree, and keep what they hold
//   - overlays: the bundles that are laid over the layers
//   - initramfs/archive: packs an initramfs
//   - internal/desk: makes each node's config of an inventory, and writes it
//     onto cards
//   - internal/cosign: key files as cosign keeps them
//   - internal/flash: finds devices, writes cards and reads them back
//   - internal/netboot (+ dhcp, tftp, eeprom): starts machines that have no card
//   - internal/fleet: upgrades nodes in order, over SSH
//   - internal/crash: what a power cut leaves of a card, judged; for tests
//   - internal/vm: a virtual Pi, its boot tests, and make bench
//   - internal/schematest, internal/registrytest: keep JSON schemas what the
//     types say, and run a real registry, for tests
//   - internal/tools (+ testlog, full): what make runs beside the go command, and
//     how much tests do
//
// Device side:
//
//   - cmd/pikelet-init, initramfs: what /init does
//   - cmd/pikeletd, internal/agent: what the node's own program does: prepare
//     on each boot, the volume, k3s, checks, status
//   - internal/agent/updater: replaces the slot that does not run, tries it, and
//     keeps it or goes back
//   - internal/agent/datastore: copies of k3s' datastore over upgrades
//   - internal/agent/etc: what a node's config makes of its /etc, as a pure
//     function
//   - internal/reboot: restarts with a word for the firmware
//
// Both, and so neither:
//
//   - internal/artifact/registry: where artifacts live, and how they are
//     fetched, checked and copied
//   - builder/squashfs: writes and reads roots; nodes write the root that a patch
//     makes
//   - internal/delta: patches, which turn one file into another
//   - internal/patch: patches of whole images, and roots made of another's blocks
//   - internal/packing: kernels and initramfs, compressed the same way each time
//   - internal/netboot/bound: sockets of DHCP
//   - internal/whole: files that are whole or not there
//
// Shared:
//
//   - boards: the Pi families, as data
//   - internal/disk (+ fat, medium): how a card is divided; FATs written and
//     read; cards written and read back
//   - internal/slots: a and b, autoboot.txt, records, what a boot was
//   - internal/verity: dm-verity trees
//   - internal/artifact: the manifest and its signature
//   - internal/netboot/plane: what a node without a card and its server say
//   - internal/node: who a node is, where it keeps things, what it says of
//     itself
//   - internal/node/config: the node config and the inventory
//   - internal/strict: YAML that people write, with all mistakes at once
//   - initramfs/cmdline: what /init is told
//
// docs/ has the glossary, the boot told as a story, and the decisions.
package pikelet
