// Package cluster holds the programs of a control plane, by their names.
package cluster

import (
	"context"
	"os"
	"path/filepath"

	kine "github.com/k3s-io/kine/pkg/app"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// Program is a program of a binary that holds several. It returns the exit status.
type Program func(args []string) int

// Programs returns the programs of a control plane.
func Programs() map[string]Program {
	return map[string]Program{
		"kine":                    runKine,
		"kube-apiserver":          func([]string) int { return cli.Run(apiserver.NewAPIServerCommand()) },
		"kube-controller-manager": func([]string) int { return cli.Run(controllers.NewControllerManagerCommand()) },
		"kube-scheduler":          func([]string) int { return cli.Run(scheduler.NewSchedulerCommand()) },
		"kubectl":                 runKubectl,
	}
}

// Run runs the program that a binary was called as, by its file name or, where
// that is not a program's, by the first argument. It returns the exit status.
func Run(programs map[string]Program, args []string) int {
	name := filepath.Base(args[0])
	if programs[name] == nil && len(args) > 1 {
		args = args[1:]
		name = args[0]
	}
	p := programs[name]
	if p == nil {
		os.Stderr.WriteString(name + ": no such program in this binary\n")
		return 2
	}
	os.Args = args // cobra's commands read it
	return p(args)
}

func runKine(args []string) int {
	if err := kine.New().RunContext(context.Background(), args); err != nil {
		os.Stderr.WriteString("kine: " + err.Error() + "\n")
		return 1
	}
	return 0
}

// runKubectl takes the kubeconfig that k3s' kubectl takes where nothing names
// another (https://docs.k3s.io/cluster-access).
func runKubectl([]string) int {
	const ofServer = "/etc/rancher/k3s/k3s.yaml"
	if _, err := os.Stat(ofServer); err == nil && os.Getenv("KUBECONFIG") == "" {
		os.Setenv("KUBECONFIG", ofServer)
	}
	return cli.Run(kubectl.NewDefaultKubectlCommand())
}
