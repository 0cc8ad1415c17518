package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
	"github.com/pikelet-os/pikelet/internal/testing/rig"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// idleAgent is how long an agent does nothing while what it writes is counted:
// an hour's figure is six times that of ten minutes.
const idleAgent = 10 * time.Minute

// clusterSpec is the image whose nodes join.
const clusterSpec = `name: lab
release: "%s"
boards: [rpi3, vm]
repositories: [{url: %s, keys: [%[2]s/starter.rsa.pub]}]
packages: [alpine-base, raspberrypi-bootloader, containerd, runc, tzdata]
overlays:
- chrony
- iscsi
- {name: k3s, with: {release: k3s-arm64, sha256: %x, images: images.tar.zst, images-sha256: %x}}
console: root
slot-size: 256MiB
health: {soak: 10s, deadline: 300s}
`

// clusterConfig is the node config of the agent that is measured.
const clusterConfig = `hostname: attic
time: {wait: 30s, servers: [10.77.0.1]}
network: {interfaces: [{name: eth0, addresses: [10.77.0.11/24], gateway: 10.77.0.1}]}
k3s: {role: agent, server: 'https://10.77.0.1:6443', token: '%s'}
`

// cluster measures an agent of a real control plane: seconds from power to Ready,
// and to the kubelet's start, which is our part of them; the memory of what is
// ours on it; how long an upgrade has it not Ready; and what it writes to its
// card while it is idle.
func cluster(ctx context.Context, o options, figures map[string]float64) error {
	programs, err := rig.Find(filepath.Dir(filepath.Dir(o.pikelet)))
	if err != nil {
		return err
	}
	if err := clusterImages(ctx, o, programs); err != nil {
		return err
	}
	lan, err := vm.NewLAN()
	if err != nil {
		return err
	}
	defer lan.Close()
	if err := lan.ServeTime(); err != nil {
		return err
	}
	dir := filepath.Join(o.scratch, "control")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	c, err := rig.Start(ctx, lan, programs, dir, o.log)
	if err != nil {
		return err
	}
	defer c.Stop()
	card := filepath.Join(o.scratch, "lab1", "disk.img")
	if err := os.Truncate(card, 4<<30); err != nil {
		return err
	}
	cfg, err := nodeconfig.Parse("attic.yaml", fmt.Appendf(nil, clusterConfig, c.Token))
	if err != nil {
		return err
	}
	if err := provision.Write(card, cfg); err != nil {
		return err
	}
	_, tap, err := lan.Pi("3", 11)
	if err != nil {
		return err
	}
	start := time.Now()
	m, err := vm.Start(ctx, vm.Options{Image: card, Tap: tap, Namespace: lan.Name, Serial: "100000000000000b", Memory: 2048, Cores: 2})
	if err != nil {
		return err
	}
	defer m.Close()
	a := agent{c: c, m: m}
	if _, err := a.until(ctx, true); err != nil {
		return err
	}
	figures["power_to_ready_seconds"] = time.Since(start).Seconds()
	const started = "grep 'running kubelet' /var/log/k3s.log"
	if figures["power_to_kubelet_seconds"], err = ask(m, started, `k3s\[([0-9.]+)\]: running kubelet`); err != nil {
		return err
	}
	if figures["node_memory_overhead_mib"], err = a.overhead(); err != nil {
		return err
	}
	o.log.Info("measuring an idle agent", "for", idleAgent+settle, "ready", figures["power_to_ready_seconds"],
		"kubelet", figures["power_to_kubelet_seconds"], "overhead", figures["node_memory_overhead_mib"])
	if figures["card_bytes_idle_hour_agent"], err = a.idle(); err != nil {
		return err
	}
	figures["notready_seconds_upgrade"], err = a.upgrade(ctx, o, lan)
	return err
}

// clusterImages builds releases 1.0 and 1.1 of the image into lab1 and lab2.
func clusterImages(ctx context.Context, o options, programs rig.Programs) error {
	release, err := programs.Release(nil)
	if err != nil {
		return err
	}
	images, err := programs.Images()
	if err != nil {
		return err
	}
	err = errors.Join(os.WriteFile(filepath.Join(o.scratch, "k3s-arm64"), release, 0o600),
		os.WriteFile(filepath.Join(o.scratch, "images.tar.zst"), images, 0o600))
	if err != nil {
		return err
	}
	if err := makeKey(ctx, o.scratch); err != nil {
		return err
	}
	for i, version := range []string{"1.0", "1.1"} {
		spec := filepath.Join(o.scratch, fmt.Sprintf("lab%d.yaml", i+1))
		text := fmt.Sprintf(clusterSpec, version, o.starter, sha256.Sum256(release), sha256.Sum256(images))
		if err := os.WriteFile(spec, []byte(text), 0o644); err != nil {
			return err
		}
		if err := signedBuild(ctx, o, fmt.Sprintf("lab%d", i+1), spec); err != nil {
			return err
		}
	}
	return nil
}

// agent is a node that is measured.
type agent struct {
	c *rig.ControlPlane
	m *vm.Machine
}

// until waits until the API has the node as Ready, or not. It returns the boot.
func (a agent) until(ctx context.Context, ready bool) (boot string, err error) {
	var n struct {
		Status struct {
			NodeInfo   struct{ BootID string }
			Conditions []struct{ Type, Status string }
		}
	}
	err = a.m.Await(fmt.Sprintf("the node is Ready: %v", ready), func() bool {
		time.Sleep(200 * time.Millisecond)
		b, err := a.c.Get(ctx, "/api/v1/nodes/attic")
		if err != nil || json.Unmarshal(b, &n) != nil {
			return false
		}
		for _, c := range n.Status.Conditions {
			if c.Type == "Ready" {
				return (c.Status == "True") == ready
			}
		}
		return false
	})
	return n.Status.NodeInfo.BootID, err
}

// overhead returns the MiB that all processes on the node take together that are
// not k3s', nor containerd's, nor of pods: their proportional share of memory.
func (a agent) overhead() (float64, error) {
	const script = `for p in /proc/[0-9]*; do n=$(cat $p/comm 2>/dev/null); case $n in ` +
		`k3s*|node|kubelet|kube-proxy|flanneld|containerd*|program|pause|"") ;; ` +
		`*) s=$(awk '/^Pss:/ {print $2}' $p/smaps_rollup 2>/dev/null); echo "mem $n $s" ;; esac; done > /tmp/mem; ` +
		`grep mem /tmp/mem; awk '{t += $3} END {print "overhead=" t}' /tmp/mem`
	kib, err := ask(a.m, script, "overhead=([0-9]+)\r")
	return kib / 1024, err
}

// idle returns the bytes that the node writes to its card in an idle hour.
func (a agent) idle() (float64, error) {
	const sectors = `awk '{print "sectors=" $7}' /sys/block/vda/stat`
	time.Sleep(settle)
	before, err := ask(a.m, sectors, "sectors=([0-9]+)\r")
	if err != nil {
		return 0, err
	}
	time.Sleep(idleAgent)
	after, err := ask(a.m, sectors, "sectors=([0-9]+)\r")
	return (after - before) * 512 * float64(time.Hour/idleAgent), err
}

// upgrade upgrades the node to release 1.1 and returns the seconds from the
// restart, when the kubelet ends, to Ready in the next boot.
func (a agent) upgrade(ctx context.Context, o options, lan *vm.LAN) (float64, error) {
	const at = registrytest.LANAddr
	registry, err := registrytest.StartInLAN(lan, filepath.Join(filepath.Dir(o.pikelet), "tools", "registry"), o.scratch)
	if err != nil {
		return 0, err
	}
	defer registry.Stop()
	publish := lan.Command(lan.Name, o.pikelet, "publish", at+"/lab", "--plain-http", "--sign-key", filepath.Join(o.scratch, "ship.key"),
		"--image", filepath.Join(o.scratch, "lab2", "artifact"))
	if out, err := publish.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("publishing: %w\n%s", err, out)
	}
	before, err := a.until(ctx, true)
	if err != nil {
		return 0, err
	}
	if _, err := a.m.Write([]byte("pikeletd upgrade --plain-http " + at + "/lab:1.1\n")); err != nil {
		return 0, err
	}
	// A node of a cluster is never idle, so a refusal must be waited for too.
	switch said, err := a.m.ExpectAny("Stopping pikelet-k3s", "pikeletd: "); {
	case err != nil:
		return 0, fmt.Errorf("%w\n%s", err, a.m.Output())
	case said == "pikeletd: ":
		return 0, fmt.Errorf("the node refuses the upgrade:\n%s", a.m.Output())
	}
	start := time.Now()
	for now := before; now == before; {
		if now, err = a.until(ctx, true); err != nil {
			return 0, err
		}
	}
	return time.Since(start).Seconds(), nil
}
