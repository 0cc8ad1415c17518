// Command k3slite takes the place of k3s on nodes in tests: it reads the files that
// k3s reads, joins by k3s' protocol, and runs the programs k3s is made of,
// as separate processes. It differs from k3s in that: a server keeps its data in
// sqlite only, there is no Helm controller, no ServiceLB and no network policy
// controller.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

const (
	dataDir   = "/var/lib/rancher/k3s"
	agentDir  = dataDir + "/agent"
	serverDir = dataDir + "/server"
	socket    = "/run/k3s/containerd/containerd.sock"
	// crictlConfig tells crictl where containerd is.
	crictlConfig = agentDir + "/etc/crictl.yaml"
	// ownSupervisor is where a server finds itself.
	ownSupervisor = "https://127.0.0.1:6443"
	// release is where the image has the programs.
	release = "/usr/lib/k3s"
)

// version is that of Kubernetes, in k3s' form; the build sets it.
var version = "v0.0.0"

func main() {
	name := filepath.Base(os.Args[0])
	if plugin := release + "/plugins/" + name; name != "k3s" && exists(plugin) {
		// k3s' network plugins are one program, cni, and links to it.
		fatal(syscall.Exec(plugin, os.Args, os.Environ()))
	}
	if slices.Contains([]string{"kubectl", "crictl", "ctr"}, name) { // links to k3s in the user's PATH
		os.Args = append([]string{"k3s", name}, os.Args[1:]...)
	}
	switch {
	case len(os.Args) == 2 && os.Args[1] == "--version":
		fmt.Printf("k3s version %s+k3s1 (k3slite)\ngo version go1.26\n", version)
	case len(os.Args) == 2 && (os.Args[1] == "server" || os.Args[1] == "agent"):
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		defer stop()
		if err := run(ctx, os.Args[1]); err != nil && ctx.Err() == nil {
			fatal(err)
		}
	case len(os.Args) > 1 && slices.Contains([]string{"kubectl", "crictl", "ctr"}, os.Args[1]):
		// k3s has crictl find containerd so (k3s-io/k3s, pkg/cli/crictl).
		env := append(os.Environ(), "CRI_CONFIG_FILE="+crictlConfig)
		fatal(syscall.Exec(release+"/bin/"+os.Args[1], os.Args[1:], env))
	default:
		fatal(fmt.Errorf("usage: k3s server|agent|kubectl, not %q", os.Args[1:]))
	}
}

func fatal(err error) {
	if err != nil {
		logf("fatal: %v", err)
		os.Exit(1)
	}
}

// logf prints a line with the seconds since the kernel started.
func logf(format string, a ...any) {
	up, _ := os.ReadFile("/proc/uptime")
	since, _, _ := strings.Cut(string(up), " ")
	fmt.Printf("k3s[%s]: %s\n", since, fmt.Sprintf(format, a...))
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// run is k3s server or k3s agent, until ctx ends or one of its programs does.
func run(ctx context.Context, role string) error {
	o, err := readConfig(role, "/etc/rancher/k3s")
	if err != nil {
		return err
	}
	if dir := os.Getenv("K3S_DATA_DIR"); dir != "" {
		return fmt.Errorf("K3S_DATA_DIR moves the data to %s", dir) // k3s-io/k3s#10589
	}
	logf("starting k3s %s %s, options %s", role, version, o.names())
	p := &processes{ended: make(chan error, 16)}
	server := o.one("server")
	if role == "server" {
		server = ownSupervisor
		if err := p.serve(ctx, o); err != nil {
			return err
		}
	}
	if err := p.join(ctx, o, server); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		logf("stopping; pods go on")
		return nil
	case err := <-p.ended:
		return err
	}
}

// processes are the programs that were started.
type processes struct{ ended chan error }

// start starts a program, whose output is k3s' own, as in the one process that
// k3s is. It ends with this one; what containerd started stays.
func (p *processes) start(program string, env []string, args ...string) error {
	path, err := exec.LookPath(program)
	if err != nil {
		return err
	}
	c := exec.Command(path, args...)
	c.Env = append(os.Environ(), env...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	if program == "containerd" {
		log := agentDir + "/containerd/containerd.log"
		if err := os.MkdirAll(filepath.Dir(log), 0o711); err != nil {
			return err
		}
		f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		c.Stdout, c.Stderr = f, f
	}
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	started := make(chan error)
	go func() {
		// Pdeathsig counts from the thread that starts the program.
		runtime.LockOSThread()
		err := c.Start()
		started <- err
		if err == nil {
			p.ended <- fmt.Errorf("%s exited: %w", program, c.Wait())
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting %s: %w", program, err)
	}
	logf("running %s %s", program, strings.Join(args, " "))
	return nil
}
