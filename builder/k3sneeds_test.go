package builder

import (
	"archive/tar"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/layers"
)

// TestImagesHaveWhatK3sNeeds: what a node would find out when it boots is an
// error of the build, with the overlay, the need and what to do.
func TestImagesHaveWhatK3sNeeds(t *testing.T) {
	const (
		nft    = "CONFIG_NF_TABLES=m\nCONFIG_NFT_COMPAT=m\nCONFIG_CFS_BANDWIDTH=y\n"
		legacy = "CONFIG_IP_NF_IPTABLES=m\nCONFIG_IP_NF_FILTER=m\nCONFIG_IP_NF_NAT=m\nCONFIG_CFS_BANDWIDTH=y\n"
	)
	alpine := []string{"etc/init.d/pikelet-k3s", "usr/bin/k3s", "bin/busybox", "bin/mount->busybox", "bin/umount->/bin/busybox",
		"usr/sbin/xtables-nft-multi", "usr/sbin/xtables-legacy-multi", "usr/sbin/iptables->xtables-nft-multi"}
	without := func(name string) []string {
		return slices.DeleteFunc(slices.Clone(alpine), func(n string) bool { return strings.HasPrefix(n, name) })
	}
	old := append(without("usr/sbin/iptables"), "etc/alternatives/iptables->/usr/sbin/xtables-legacy-multi",
		"usr/sbin/iptables->/etc/alternatives/iptables")
	for name, c := range map[string]struct {
		files         []string
		config        string
		err, warn, do string
	}{
		"as Alpine has it":       {files: alpine, config: nft},
		"no configuration":       {files: alpine},
		"no k3s overlay":         {files: without("etc/init.d"), config: legacy},
		"old tables, old kernel": {files: old, config: legacy},
		"no nf_tables": {files: alpine, config: legacy, do: "take a kernel with nf_tables",
			err: "overlay k3s: iptables is of the kind nf_tables (/usr/sbin/xtables-nft-multi), and kernel 6.18 of package linux-x lacks " +
				"CONFIG_NF_TABLES, CONFIG_NFT_COMPAT"},
		"no legacy tables": {files: old, config: nft, do: "take an iptables of the kind nf_tables",
			err: "overlay k3s: iptables is of the kind legacy (/usr/sbin/xtables-legacy-multi), and kernel 6.18 of package linux-x lacks " +
				"CONFIG_IP_NF_IPTABLES, CONFIG_IP_NF_FILTER, CONFIG_IP_NF_NAT"},
		"no iptables": {files: without("usr/sbin/iptables"), config: nft, do: "add the package iptables",
			err: "overlay k3s: the image has no program iptables (looked for /usr/sbin/iptables,"},
		"no mount":  {files: without("bin/mount"), config: nft, do: "add the package busybox", err: "no program mount"},
		"no umount": {files: without("bin/umount"), config: nft, do: "add the package busybox", err: "no program umount"},
		"no k3s":    {files: without("usr/bin/k3s"), config: nft, do: "give the overlay k3s a release", err: "no program k3s"},
		"a link to nowhere": {files: append(without("usr/sbin/iptables"), "usr/sbin/iptables->gone"), config: nft,
			do: "add the package iptables", err: "no program iptables"},
		"another iptables": {files: append(without("usr/sbin/iptables"), "usr/sbin/iptables"), config: nft,
			warn: `kernel cannot be checked for the tables of iptables`},
		"no CPU limits": {files: alpine, config: strings.Replace(nft, "CONFIG_CFS_BANDWIDTH=y", "", 1),
			warn: `option="CONFIG_CFS_BANDWIDTH" for="CPU limits of pods"`},
	} {
		tree := layers.NewTree(newContents(t).spool)
		put(t, tree, "test", c.files...)
		if c.config != "" {
			if err := tree.AddFile(tar.Header{Name: "boot/config-x", Mode: 0o644}, "test", []byte(c.config)); err != nil {
				t.Fatal(err)
			}
		}
		warnings, err := checkK3s(tree, &kernel{Package: "linux-x", Image: "boot/vmlinuz-x", Release: "6.18"})
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: got %v, want %q", name, err, c.err)
		}
		if advice := strings.Join(hint.Of(err), "; "); (advice == "") != (c.do == "") || !strings.Contains(advice, c.do) {
			t.Errorf("%s: advice is %q, want %q", name, advice, c.do)
		}
		if all := lines(warnings); (all == "") != (c.warn == "") || !strings.Contains(all, c.warn) {
			t.Errorf("%s: got warnings %q, want %q", name, all, c.warn)
		}
	}
}
