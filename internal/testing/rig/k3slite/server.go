package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/testing/rig/supervisor"
)

// serve starts a control plane on this node and waits until its API is ready.
func (p *processes) serve(ctx context.Context, o options) error {
	if o.one("server") != "" || o.one("datastore-endpoint") != "" {
		return fmt.Errorf("k3slite runs a server alone, with sqlite")
	}
	ip, err := nodeIP(o)
	if err != nil {
		return err
	}
	addresses := []net.IP{net.ParseIP(ip)}
	for _, name := range o["tls-san"] {
		if a := net.ParseIP(name); a != nil {
			addresses = append(addresses, a)
		}
	}
	cluster, err := supervisor.Create(serverDir, o.one("token"), addresses...)
	if err != nil {
		return err
	}
	network := supervisor.DefaultNetwork()
	network.ClusterCIDR = o.or("cluster-cidr", network.ClusterCIDR)
	network.ServiceCIDR = o.or("service-cidr", network.ServiceCIDR)
	network.ClusterDNS = o.or("cluster-dns", network.ClusterDNS)
	network.Flannel = o.or("flannel-backend", network.Flannel)
	if err := os.MkdirAll(serverDir+"/db", 0o700); err != nil {
		return err
	}
	direct := (&net.Dialer{}).DialContext
	s, err := supervisor.New(cluster, network, direct, slog.New(slog.NewTextHandler(os.Stdout, nil)))
	if err != nil {
		return err
	}
	for _, c := range cluster.Commands(network, ip, serverDir+"/db/state.db", serverDir+"/kine.sock") {
		if c.NeedsAPI {
			if err := p.apiReady(ctx, s); err != nil {
				return err
			}
		}
		args := slices.Concat(c.Args, o.arguments(c.Option))
		if err := p.start(c.Program, nil, args...); err != nil {
			return err
		}
	}
	if err := s.Prepare(ctx, ip); err != nil {
		return err
	}
	l, err := net.Listen("tcp", ":6443")
	if err != nil {
		return err
	}
	go func() { p.ended <- fmt.Errorf("supervisor: %w", s.Serve(l, direct)) }()
	if err := writeAdmin(o, cluster); err != nil {
		return err
	}
	go deploy(ctx, o)
	return nil
}

// apiReady waits for the API server.
func (p *processes) apiReady(ctx context.Context, s *supervisor.Supervisor) error {
	for {
		status, err := s.Do(ctx, http.MethodGet, "/readyz", "", nil)
		if err == nil && status == http.StatusOK {
			logf("API server is ready")
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-p.ended:
			return err
		case <-time.After(time.Second):
		}
	}
}

// writeAdmin writes the administrator's kubeconfig: for people, with keys and
// certificates in it (k3s, pkg/util/client), and for programs of the server
// (k3s, pkg/daemons/control/deps).
func writeAdmin(o options, c supervisor.Cluster) error {
	name := o.or("write-kubeconfig", "/etc/rancher/k3s/k3s.yaml")
	files := []string{c.TLS("server-ca.crt"), c.TLS("client-admin.crt"), c.TLS("client-admin.key")}
	text := supervisor.Kubeconfig(ownSupervisor, files[0], files[1], files[2])
	whole := text
	for i, field := range []string{"certificate-authority", "client-certificate", "client-key"} {
		b, err := os.ReadFile(files[i])
		if err != nil {
			return err
		}
		whole = strings.Replace(whole, field+": "+files[i], field+"-data: "+base64.StdEncoding.EncodeToString(b), 1)
	}
	return errors.Join(write(name, []byte(whole)), write(serverDir+"/cred/admin.kubeconfig", []byte(text)))
}

// deploy applies the manifests of the server's directory, all at the start and
// each again when it changes (k3s, pkg/deploy).
func deploy(ctx context.Context, o options) {
	applied := map[string]time.Time{}
	for ; ctx.Err() == nil; time.Sleep(15 * time.Second) {
		files, _ := filepath.Glob(serverDir + "/manifests/*")
		slices.Sort(files)
		for _, name := range files {
			base := strings.TrimSuffix(filepath.Base(name), filepath.Ext(name))
			st, err := os.Lstat(name)
			if err != nil || st.IsDir() || applied[name].Equal(st.ModTime()) || slices.Contains(o["disable"], base) || exists(name+".skip") {
				continue
			}
			out, err := exec.Command("kubectl", "apply", "--server-side", "--force-conflicts", "-f", name).CombinedOutput()
			if err != nil {
				logf("Failed to process config: failed to process %s: %v: %s", name, err, out)
				continue
			}
			logf("Applied manifest %s", name)
			applied[name] = st.ModTime()
		}
	}
}
