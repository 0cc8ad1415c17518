package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw"
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/ipmatch"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
	"github.com/flannel-io/flannel/pkg/trafficmngr/iptables"
)

// runFlannel is flannel with the two backends that tests use; its own main
// package brings all of them, and with them the clouds' libraries.
func runFlannel(args []string) int {
	f := flag.NewFlagSet("flanneld", flag.ExitOnError)
	kubeconfig := f.String("kubeconfig-file", "", "kubeconfig")
	network := f.String("net-config-path", "", "network configuration, JSON")
	device := f.String("iface", "", "device to other nodes; \"\" for that of the default route")
	env := f.String("subnet-file", "/run/flannel/subnet.env", "file for the node's share of the network")
	f.Parse(args[1:])
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := flannel(ctx, *kubeconfig, *network, *device, *env); err != nil {
		fmt.Fprintln(os.Stderr, "flanneld:", err)
		return 1
	}
	return 0
}

func flannel(ctx context.Context, kubeconfig, network, device, env string) error {
	subnets, err := kube.NewSubnetManager(ctx, "", kubeconfig, "flannel.alpha.coreos.com", network, false)
	if err != nil {
		return err
	}
	cfg, err := subnets.GetNetworkConfig(ctx)
	if err != nil {
		return err
	}
	stack, err := ipmatch.GetIPFamily(cfg.EnableIPv4, cfg.EnableIPv6)
	if err != nil {
		return err
	}
	outside, err := ipmatch.LookupExtIface(device, "", "", stack, ipmatch.PublicIPOpts{})
	if err != nil {
		return err
	}
	be, err := backend.NewManager(ctx, subnets, outside).GetBackend(cfg.BackendType)
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	net, err := be.RegisterNetwork(ctx, &running, cfg)
	if err != nil {
		return fmt.Errorf("registering the network: %w", err)
	}
	const resync = 5 // seconds, as flannel's own
	rules := &iptables.IPTablesManager{}
	if err := rules.Init(ctx); err != nil {
		return err
	}
	err = rules.SetupAndEnsureMasqRules(ctx, cfg.Network, ip.IP4Net{}, ip.IP4Net{}, cfg.IPv6Network, ip.IP6Net{}, ip.IP6Net{},
		net.Lease(), resync, false)
	if err != nil {
		return err
	}
	rules.SetupAndEnsureForwardRules(ctx, cfg.Network, cfg.IPv6Network, resync)
	if err := subnets.HandleSubnetFile(env, cfg, true, net.Lease().Subnet, net.Lease().IPv6Subnet, net.MTU()); err != nil {
		return err
	}
	fmt.Println("flanneld: running backend", cfg.BackendType)
	net.Run(ctx)
	return nil
}
