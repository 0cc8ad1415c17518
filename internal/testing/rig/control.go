// Package rig is a real Kubernetes to test nodes against: a control plane that
// runs on this computer, in a network of virtual Pis, and what nodes run in the
// place of a release of k3s. make rig builds its programs.
package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/pikelet-os/pikelet/internal/testing/rig/supervisor"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// ControlPlane is a running control plane. Nodes find it at
// https://10.77.0.1:6443 (vm.LANAddress).
type ControlPlane struct {
	Token string

	lan      *vm.LAN
	programs Programs
	dir      string
	cluster  supervisor.Cluster
	network  supervisor.Network
	admin    supervisor.API
	log      *slog.Logger
	running  []*program
	listener net.Listener
}

// program is a running program of the control plane.
type program struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{} // closed
}

// start starts a program that ends with this process, however that ends. The
// kernel goes by the thread that started it (prctl(2), PR_SET_PDEATHSIG), which so
// waits for its end.
func start(name string, cmd *exec.Cmd) (*program, error) {
	p := &program{name, cmd, make(chan struct{})}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
			close(p.ended)
		}
	}()
	return p, <-started
}

// Start makes a cluster in an empty directory and starts its control plane, which
// is ready when Start returns. Logs of its programs are in the directory.
func Start(ctx context.Context, lan *vm.LAN, programs Programs, dir string, log *slog.Logger) (*ControlPlane, error) {
	c := &ControlPlane{lan: lan, programs: programs, dir: dir, network: supervisor.DefaultNetwork(), log: log}
	var err error
	if c.cluster, err = supervisor.Create(filepath.Join(dir, "server"), "", net.ParseIP(vm.LANAddress)); err != nil {
		return nil, err
	}
	if c.Token, err = c.cluster.Token(); err != nil {
		return nil, err
	}
	if c.admin, err = c.cluster.Admin(c.lan.DialContext); err != nil {
		return nil, err
	}
	if err := c.Resume(ctx); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

// Resume starts the programs, again after Stop.
func (c *ControlPlane) Resume(ctx context.Context) error {
	for _, p := range c.cluster.Commands(c.network, vm.LANAddress, filepath.Join(c.dir, "state.db"), filepath.Join(c.dir, "kine.sock")) {
		if p.NeedsAPI {
			if err := c.wait(ctx, "/readyz"); err != nil {
				return err
			}
		}
		cmd := c.lan.Command(c.lan.Name, append([]string{c.programs.control(), p.Program}, p.Args...)...)
		log, err := os.OpenFile(filepath.Join(c.dir, p.Program+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		cmd.Stdout, cmd.Stderr = log, log
		started, err := start(p.Program, cmd)
		log.Close()
		if err != nil {
			return err
		}
		c.running = append(c.running, started)
	}
	s, err := supervisor.New(c.cluster, c.network, c.lan.DialContext, c.log)
	if err != nil {
		return err
	}
	if err := s.Prepare(ctx, vm.LANAddress); err != nil {
		return err
	}
	err = vm.InNamespace(c.lan.Name, func() error {
		c.listener, err = net.Listen("tcp", ":6443")
		return err
	})
	if err != nil {
		return err
	}
	go s.Serve(c.listener, c.lan.DialContext) // until Stop closes the listener
	return c.wait(ctx, "/api/v1/namespaces/default/serviceaccounts/default")
}

// wait waits until a path of the API is there, while all programs run.
func (c *ControlPlane) wait(ctx context.Context, path string) error {
	for {
		_, err := c.Get(ctx, path)
		if err == nil {
			return nil
		}
		for _, p := range c.running {
			select {
			case <-p.ended:
				return fmt.Errorf("%s ended, its log is in %s: %w", p.name, c.dir, err)
			default:
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Stop ends the control plane, as pulling the server's plug would.
func (c *ControlPlane) Stop() {
	if c.listener != nil {
		c.listener.Close()
	}
	for _, p := range c.running {
		p.cmd.Process.Kill()
		<-p.ended
	}
	c.running, c.listener = nil, nil
	c.admin.CloseIdleConnections()
}

// Get returns an object of the API, as JSON.
func (c *ControlPlane) Get(ctx context.Context, path string) ([]byte, error) {
	return c.Do(ctx, http.MethodGet, path, nil)
}

// Do sends a request to the API as its administrator; body is made JSON of, nil
// for none. A status of 300 or more is an error.
func (c *ControlPlane) Do(ctx context.Context, method, path string, body any) ([]byte, error) {
	var in []byte
	if body != nil {
		var err error
		if in, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	status, b, err := c.admin.Do(ctx, method, path, in)
	if err == nil && status >= 300 {
		err = fmt.Errorf("%s %s: status %d: %s", method, path, status, b)
	}
	return b, err
}

// Kubeconfig returns the file with the credentials of the administrator.
func (c *ControlPlane) Kubeconfig() string { return c.cluster.Kubeconfig("admin") }

// Kubectl returns a kubectl command of the administrator.
func (c *ControlPlane) Kubectl(args ...string) *exec.Cmd {
	all := append([]string{c.programs.control(), "kubectl", "--kubeconfig", c.Kubeconfig()}, args...)
	return c.lan.Command(c.lan.Name, all...)
}
