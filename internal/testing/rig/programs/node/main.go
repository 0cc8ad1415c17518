// Command node is what a k3s release brings besides containerd, runc and network
// plugins, in one binary: the control plane, kubelet, kube-proxy and flannel.
package main

import (
	"context"
	"os"

	"k8s.io/component-base/cli"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	"github.com/pikelet-os/pikelet/internal/testing/rig/programs/cluster"
)

func main() {
	programs := cluster.Programs()
	programs["kubelet"] = func([]string) int { return cli.Run(kubelet.NewKubeletCommand(context.Background())) }
	programs["kube-proxy"] = func([]string) int { return cli.Run(proxy.NewProxyCommand()) }
	programs["flanneld"] = runFlannel
	os.Exit(cluster.Run(programs, os.Args))
}
