package cli

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/backup"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// An agent of an inventory.
type agent struct {
	name   string
	server string // where it looks for the server, as HOST:PORT
	config []byte // what it is sent
}

// loadAgents reads the agents of the inventory, if there is one.
func (m *move) loadAgents() error {
	if m.inventory == "" {
		if m.send {
			return usagef("--send sends configs of an inventory: name it with --inventory")
		}
		return nil
	}
	d, err := provision.Load(m.inventory)
	if err != nil {
		return err
	}
	if d.Inventory == nil {
		return usagef("%s is no inventory", m.inventory)
	}
	for _, n := range d.Inventory.Nodes {
		if n.Hostname == "" {
			continue // ssh has no name for it
		}
		cfg, err := provision.Config(d, nodeconfig.Machine{Name: n.Hostname}, "", m.keys)
		if err != nil {
			return err
		}
		if cfg.K3s.Role != "agent" {
			continue
		}
		at, err := hostPort(cfg.K3s.Server)
		if err != nil {
			return fmt.Errorf("%s: k3s.server of %s: %w", m.inventory, n.Hostname, err)
		}
		text, err := cfg.Encode()
		if err != nil {
			return err
		}
		m.agents = append(m.agents, agent{n.Hostname, at, text})
	}
	return nil
}

// hostPort returns where a server with some URL answers.
func hostPort(server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", err
	}
	if u.Hostname() == "" {
		return "", fmt.Errorf("%q: want https://HOST:6443", server)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// recent is how long ago a node that is connected was heard of at most: kubelets
// renew their lease every 10 s, and a node counts as lost after 40 s.
const recent = 40 * time.Second

// away returns the nodes of a cluster that have not followed to the new server.
func (m *move) away(new backup.Status) (list []string) {
	for name, last := range new.Heard {
		// What was in the backup says nothing of now.
		stale := new.Restored != nil && !last.After(new.Restored.Made) || new.Now.Sub(last) > recent
		if stale && name != new.Node && name != m.oldNode {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// followed waits until all agents have followed to the new server. Those that do
// not by themselves are sent their config, where that is asked for.
func (m *move) followed(ctx context.Context, new backup.Status) error {
	leads, err := m.leads(ctx, new)
	if err != nil {
		return err
	}
	left, err := m.awaitAgents(ctx, m.follow, func(string) bool { return true })
	if err != nil {
		return err
	}
	for _, name := range left {
		i := slices.IndexFunc(m.agents, func(a agent) bool { return a.name == name })
		switch {
		case !m.send || i < 0:
			continue
		case !leads[m.agents[i].server]:
			return hint.Withf(fmt.Errorf("%s of k3s.server in %s leads to no server of this cluster", m.agents[i].server, m.inventory),
				"set it to one of https://%s", strings.ReplaceAll(new.Answers, " ", ", https://"))
		}
		if err := m.sendConfig(ctx, m.agents[i]); err != nil {
			return err
		}
		if _, err := m.awaitAgents(ctx, m.wait, func(n string) bool { return n == name }); err != nil {
			return err
		}
	}
	if left, err = m.awaitAgents(ctx, 0, func(string) bool { return true }); err != nil || len(left) == 0 {
		return err
	}
	advice := "give them the new address in k3s.server of the inventory, and run this again with --inventory FILE --send"
	if m.inventory != "" {
		advice = fmt.Sprintf("have what they know lead to %s; or set k3s.server in %s to it, and run this again with --send",
			new.Node, m.inventory)
	}
	return hint.With(fmt.Errorf("%s serves, and these nodes have not followed: %s", m.new, strings.Join(left, ", ")), advice)
}

// leads asks the new node which addresses of the inventory lead to its cluster, and
// says so.
func (m *move) leads(ctx context.Context, new backup.Status) (map[string]bool, error) {
	leads := map[string]bool{}
	for _, a := range m.agents {
		if _, asked := leads[a.server]; asked {
			continue
		}
		b, err := m.ask(ctx, m.new, nil, "probe", a.server, new.Cluster)
		if err != nil {
			return nil, err
		}
		said := strings.TrimSpace(string(b))
		leads[a.server] = said == "yes"
		if leads[a.server] {
			m.log.Info("agents follow by themselves where they know this", "k3s.server", a.server)
		} else {
			m.log.Warn("agents cannot follow by this", "k3s.server", a.server, "problem", strings.TrimPrefix(said, "no: "))
		}
	}
	return leads, nil
}

// awaitAgents waits for some time until all of some nodes have followed, and returns
// those that have not.
func (m *move) awaitAgents(ctx context.Context, limit time.Duration, which func(name string) bool) (left []string, err error) {
	err = m.until(ctx, limit, func() (bool, error) {
		new, err := m.look(ctx, m.new)
		if err != nil {
			return false, err
		}
		if new.Heard == nil {
			return false, fmt.Errorf("%s does not say which nodes it hears of: %w", m.new, errNotYet)
		}
		left = slices.DeleteFunc(m.away(new), func(name string) bool { return !which(name) })
		if len(left) > 0 {
			return false, fmt.Errorf("nodes that have not followed: %s: %w", strings.Join(left, ", "), errNotYet)
		}
		return true, nil
	})
	if len(left) > 0 {
		err = ctx.Err()
	}
	return left, err
}

// sendConfig sends an agent its config, and restarts it.
func (m *move) sendConfig(ctx context.Context, a agent) error {
	m.log.Info("sending the config with the new address, and restarting", "node", a.name)
	for _, verb := range []string{"config", "reboot"} {
		cmd, err := m.ssh.command(ctx, a.name, []string{verb})
		if err != nil {
			return err
		}
		stdin := bytes.NewReader(nil)
		if verb == "config" {
			stdin = bytes.NewReader(a.config)
		}
		if _, err := runOver(cmd, a.name, stdin); err != nil && verb == "config" {
			return err
		}
	}
	return nil
}
