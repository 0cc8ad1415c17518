// Package pikelet is the map of the code; it holds none.
//
// Pikelet builds immutable, A/B-upgradable k3s nodes for Raspberry Pi. Data
// flows one way, and each arrow is one function:
//
//	image.yaml ─ builder/spec.Load ─▶ spec.Image ─ builder.Resolve ─▶ Plan (= the lock) ─ assemble ─▶ layers.Tree
//	    ─ seal ─▶ root ─ makeBootFiles ─▶ bootFiles ─ pack ─▶ Artifact ─ card ─▶ disk.img
//	Artifact ─ publish ─▶ registry ─ pull, flash ─▶ card
//	disk.img ─▶ firmware ─▶ initramfs (/init) ─▶ internal/device/agent/prepare ─▶ OpenRC
//
// The directories are the sides, and deps_test.go holds them apart:
//
//   - host, for a person's computer or CI: cmd/pikelet, builder, layers,
//     overlays, internal/host, and internal/testing with internal/tools
//   - device, for nodes: initramfs (/init), cmd/pikeletd, internal/device
//   - shared, what crosses from one to the other, each such byte encoded and
//     decoded in one file: boards, internal/shared
//
// Start with builder.Build for how an image is made, initramfs for how a node
// starts, internal/device/updater for how it upgrades itself. docs/ has the
// glossary, a boot step by step, the platform facts and the decisions;
// docs/architecture.svg draws the flow, and CONTRIBUTING.md tells how to add a
// board, an overlay, a check, a config key or a command.
package pikelet
