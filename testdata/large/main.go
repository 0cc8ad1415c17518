//go:build ignore

// Command large is a large Kubernetes program, for measurements: most of what
// a k3s binary is made of, without k3s. build.sh gives it a module of its own.
package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	programs := map[string]func() *cobra.Command{
		"apiserver": apiserver.NewAPIServerCommand, "controllers": controllers.NewControllerManagerCommand,
		"proxy": proxy.NewProxyCommand, "scheduler": func() *cobra.Command { return scheduler.NewSchedulerCommand() },
		"kubelet": func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
	}
	name := filepath.Base(os.Args[0])
	if p, ok := programs[name]; ok {
		os.Exit(cli.Run(p()))
	}
	etcdmain.Main(os.Args)
}
