// Package agent is pikeletd, Pikelet's program in the root: its verbs, and the
// daemon. Each story is a package of its own below it:
//
//   - prepare: before OpenRC, make this node out of the image
//   - volume, with iscsi: open and close the disk of k3s and pods
//   - k3s: start k3s, and keep its datastore over upgrades
//   - checks: what a node needs, a file for each subject
//   - upgrade: find, bring, try and conclude releases
//
// What the stories share is in small packages that import none of them: card,
// machine, runfiles, statefile, mounts, ext4, shutdown and so on. This package
// imports them all, and none of them imports it.
package agent
