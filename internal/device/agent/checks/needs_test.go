package checks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// rootWith returns a root of files.
func rootWith(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// wantProblem compares what a check says: each of want must be in it, and all is
// well where there is none.
func wantProblem(t *testing.T, name, got string, want ...string) {
	t.Helper()
	if len(want) == 0 && got != "" {
		t.Errorf("%s: got %q, want none", name, got)
	}
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("%s: got %q, want %q in it", name, got, w)
		}
	}
}

// TestIptables: program and kernel must be of one kind.
func TestIptables(t *testing.T) {
	const nft, legacy = "iptables v1.8.11 (nf_tables)", "iptables v1.8.11 (legacy)"
	const release = "6.18.2-0-rpi"
	kernel := func(list, text string) map[string]string {
		return map[string]string{"proc/sys/kernel/osrelease": release + "\n", "lib/modules/" + release + "/" + list: text}
	}
	modern := kernel("modules.dep", "kernel/net/netfilter/nf_tables.ko.zst: kernel/x.ko\nkernel/net/netfilter/nft_compat.ko.zst:\n")
	builtin := kernel("modules.builtin", "kernel/net/netfilter/nf_tables.ko\nkernel/net/netfilter/nft-compat.ko\n")
	old := kernel("modules.dep", "kernel/ip_tables.ko:\nkernel/iptable_filter.ko:\nkernel/iptable_nat.ko:\n")
	loaded := map[string]string{"sys/module/nf_tables/refcnt": "1", "sys/module/nft_compat/refcnt": "1"}
	for name, c := range map[string]struct {
		files   map[string]string
		version string
		want    []string
	}{
		"nft on a new kernel":    {modern, nft, nil},
		"nft built in":           {builtin, nft, nil},
		"nft loaded":             {loaded, nft, nil},
		"legacy on an old one":   {old, legacy, nil},
		"nft on an old kernel":   {old, nft, []string{"no module nf_tables, nft_compat", "take a kernel with NF_TABLES"}},
		"legacy on a new kernel": {modern, legacy, []string{"module ip_tables, iptable_filter, iptable_nat", "of the nf_tables kind"}},
		"none":                   {modern, "", []string{"there is no iptables", "add the package iptables"}},
	} {
		wantProblem(t, name, iptablesProblem(rootWith(t, c.files), c.version), c.want...)
	}
	wantProblem(t, "before 1.8", iptablesDoubt("iptables v1.6.2"), "does not say which kind", "take Alpine's package")
	for _, version := range []string{nft, legacy} {
		wantProblem(t, version, iptablesDoubt(version))
	}
}

// TestIptablesVersion: the system's own comes before a release's, as in PATH.
func TestIptablesVersion(t *testing.T) {
	const system, bundled = "#!/bin/sh\necho 'iptables v1.8.11 (nf_tables)'\n", "#!/bin/sh\necho 'iptables v1.8.11 (legacy)'\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"system":  {map[string]string{"usr/sbin/iptables": system, "usr/lib/k3s/bin/aux/iptables": bundled}, "iptables v1.8.11 (nf_tables)"},
		"bundled": {map[string]string{"usr/lib/k3s/bin/aux/iptables": bundled}, "iptables v1.8.11 (legacy)"},
		"neither": {nil, ""},
		"broken":  {map[string]string{"sbin/iptables": "#!/bin/sh\nexit 3\n"}, "iptables: exit status 3"},
	} {
		if got := iptablesVersion(t.Context(), rootWith(t, c.files)); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestConntrack(t *testing.T) {
	const dir = "proc/sys/net/netfilter/nf_conntrack_"
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"room": {map[string]string{dir + "max": "65536\n", dir + "count": "12\n"}, nil},
		"full": {map[string]string{dir + "max": "65536\n", dir + "count": "65536\n"},
			[]string{"all 65536", "nf_conntrack_max higher"}},
		"not loaded": {nil, []string{"nf_conntrack is not loaded", "add it to modules"}},
	} {
		root := rootWith(t, c.files)
		wantProblem(t, name, conntrackProblem(root)+conntrackFull(root), c.want...)
	}
}

// TestResolvConf: what k3s would replace, by the rules of its own.
func TestResolvConf(t *testing.T) {
	const remedy = "k3s gives pods 8.8.8.8 instead: set network.dns"
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"of a lease":   {"# by udhcpc\nsearch lan\nnameserver 192.168.1.1\nnameserver 2001:db8::1\n", nil},
		"private":      {"nameserver fd00::1\n", nil},
		"empty":        {"", []string{"names no name server", remedy}},
		"only search":  {"search lan\n", []string{"names no name server", remedy}},
		"itself":       {"nameserver 127.0.0.1\n", []string{"name server 127.0.0.1, which pods cannot reach", remedy}},
		"itself too":   {"nameserver 10.0.0.1\nnameserver ::1\n", []string{"name server ::1"}},
		"of the link":  {"nameserver fe80::1%eth0\n", []string{"name server fe80::1%eth0"}},
		"a name":       {"nameserver dns.lan\n", []string{"name server dns.lan"}},
		"without text": {"nameserver\n", []string{"names no name server"}},
	} {
		wantProblem(t, name, resolvProblem(rootWith(t, map[string]string{"etc/resolv.conf": c.text}), nodeconfig.K3s{}), c.want...)
	}
	wantProblem(t, "no file", resolvProblem(t.TempDir(), nodeconfig.K3s{}), "there is no /etc/resolv.conf", remedy)
	k := nodeconfig.K3s{Options: nodeconfig.Options{"resolv-conf": "/etc/pods.conf"}}
	root := rootWith(t, map[string]string{"etc/resolv.conf": "nameserver 127.0.0.1\n", "etc/pods.conf": "nameserver 10.0.0.1\n"})
	wantProblem(t, "one of its own", resolvProblem(root, k))
	wantProblem(t, "one that is not there", resolvProblem(t.TempDir(), k), "there is no /etc/pods.conf")
}

func TestInotify(t *testing.T) {
	const dir = "proc/sys/fs/inotify/max_user_"
	for name, c := range map[string]struct {
		instances, watches string
		want               []string
	}{
		"of the overlay": {"8192\n", "524288\n", nil},
		"the kernel's":   {"128\n", "524288\n", []string{`fs.inotify.max_user_instances is "128", and pods want 512`, "set it in sysctls"}},
		"few watches":    {"512\n", "8192\n", []string{`max_user_watches is "8192", and pods want 65536`}},
		"none":           {"512\n", "", []string{`max_user_watches is ""`}},
	} {
		root := rootWith(t, map[string]string{dir + "instances": c.instances, dir + "watches": c.watches})
		wantProblem(t, name, inotifyProblem(root), c.want...)
	}
}

func TestMachineID(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"one":           {"0af3bd1f26e34be8b4bd4b0ebd8c4f65\n", nil},
		"without end":   {"0af3bd1f26e34be8b4bd4b0ebd8c4f65", nil},
		"empty":         {"", []string{"32 hexadecimal digits", "from the node's seed"}},
		"systemd's own": {"uninitialized\n", []string{"32 hexadecimal digits"}},
		"upper case":    {"0AF3BD1F26E34BE8B4BD4B0EBD8C4F65\n", []string{"32 hexadecimal digits"}},
		"short":         {"0af3\n", []string{"32 hexadecimal digits"}},
		"zeros":         {strings.Repeat("0", 32) + "\n", []string{"all zeros"}},
	} {
		wantProblem(t, name, machineIDProblem(rootWith(t, map[string]string{"etc/machine-id": c.text})), c.want...)
	}
	wantProblem(t, "no file", machineIDProblem(t.TempDir()), "there is no /etc/machine-id")
}

// TestSwap: swap is a problem only where the kubelet is told to take it for one.
func TestSwap(t *testing.T) {
	const head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
	const zram = head + "/dev/zram0                              partition\t1048572\t\t0\t\t100\n"
	for name, c := range map[string]struct {
		swaps, arg string
		want       []string
	}{
		"none":            {head, "[fail-swap-on=true]", nil},
		"swap":            {zram, "[max-pods=30]", nil},
		"swap is refused": {zram, "[max-pods=30, fail-swap-on=true]", []string{"/dev/zram0 is in use as swap", "turn one of them off"}},
		"as a flag":       {zram, "['--fail-swap-on']", []string{"/dev/zram0"}},
		"as one text":     {zram, "fail-swap-on=true", []string{"/dev/zram0"}},
		"allowed":         {zram, "[fail-swap-on=false]", nil},
	} {
		cfg, err := nodeconfig.Parse("n.yaml", []byte("k3s: {role: server, options: {kubelet-arg: "+c.arg+"}}"))
		if err != nil {
			t.Fatal(err)
		}
		wantProblem(t, name, swapProblem(rootWith(t, map[string]string{"proc/swaps": c.swaps}), cfg.K3s), c.want...)
	}
	wantProblem(t, "a kernel without swap", swapProblem(t.TempDir(), nodeconfig.K3s{}))
}

// TestCgroups: the controllers of cgroup v2 that k3s does not start without.
func TestCgroups(t *testing.T) {
	const file = "cgroup.controllers"
	wantProblem(t, "all", cgroupProblem(rootWith(t, map[string]string{file: "cpuset cpu io memory hugetlb pids\n"})))
	wantProblem(t, "as the Pi's firmware starts it", cgroupProblem(rootWith(t, map[string]string{file: "cpuset cpu io pids\n"})),
		"no cgroup controller memory", "cgroup_enable=memory")
	wantProblem(t, "none", cgroupProblem(rootWith(t, map[string]string{file: "\n"})), "cpu, cpuset, memory, pids")
	wantProblem(t, "version 1", cgroupProblem(t.TempDir()), "enable the service cgroups")
}

// TestNeedsAreListed: each has a name, and says what to do where it does not
// hold. What k3s makes up for keeps no node from an upgrade.
func TestNeedsAreListed(t *testing.T) {
	const iptables = "#!/bin/sh\necho iptables v1.6.2\n"
	for _, c := range []struct {
		root string
		want string
	}{
		{t.TempDir(), "MISSING iptables, MISSING conntrack, WARNING resolv.conf, WARNING inotify, MISSING machine-id, ok swap"},
		{rootWith(t, map[string]string{conntrackMax: "8\n", conntrackCount: "8\n", "usr/sbin/iptables": iptables,
			"etc/machine-id": "0af3bd1f26e34be8b4bd4b0ebd8c4f65\n"}),
			"WARNING iptables, WARNING conntrack, WARNING resolv.conf, WARNING inotify, ok machine-id, ok swap"},
	} {
		var got []string
		for _, check := range needsChecks(t.Context(), state{cfg: &nodeconfig.Config{}}, c.root) {
			word := strings.Fields(check.String())[0]
			got = append(got, word+" "+check.Name)
			if check.OK != (word != "MISSING") || check.Says == "" {
				t.Errorf("%+v is shown as %s", check, word)
			}
		}
		if text := strings.Join(got, ", "); text != c.want {
			t.Errorf("got %s, want %s", text, c.want)
		}
	}
}
