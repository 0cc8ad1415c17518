package k3s

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/answers"
	"github.com/pikelet-os/pikelet/internal/device/datastore"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// defaultPort is where k3s' server answers (https://docs.k3s.io/cli/server).
const defaultPort = "6443"

// anywhere is an address that is on no network (RFC 5737): nothing is sent there.
const anywhere = "192.0.2.1:9"

// askEvery is how often a server that must not start looks again.
const askEvery = 10 * time.Second

// Local returns where this node's own server answers, as HOST:PORT.
func Local(cfg *nodeconfig.Config) string { return net.JoinHostPort("127.0.0.1", port(cfg)) }

func port(cfg *nodeconfig.Config) string {
	if p, set := cfg.K3s.Options["https-listen-port"]; set {
		return fmt.Sprint(p)
	}
	return defaultPort
}

// Addresses returns where agents reach the server of a config, as HOST:PORT,
// separated by blanks: by the node's own address, and by the names and addresses
// that its certificate is to hold (tls-san).
func Addresses(cfg *nodeconfig.Config) string {
	hosts := listed(cfg.K3s.Options["node-ip"])
	if len(hosts) == 0 {
		if c, err := net.Dial("udp", anywhere); err == nil { // sends nothing
			hosts = append(hosts, c.LocalAddr().(*net.UDPAddr).IP.String())
			c.Close()
		}
	}
	hosts = append(hosts, listed(cfg.K3s.Options["tls-san"])...)
	for i, h := range hosts {
		hosts[i] = net.JoinHostPort(h, port(cfg))
	}
	return strings.Join(hosts, " ")
}

// listed returns the values of an option of k3s: a list, or text with commas.
func listed(option any) (list []string) {
	values, is := option.([]any)
	if !is && option != nil {
		values = []any{option}
	}
	for _, v := range values {
		for s := range strings.SplitSeq(fmt.Sprint(v), ",") {
			if s = strings.TrimSpace(s); s != "" {
				list = append(list, s)
			}
		}
	}
	return list
}

// WaitingFile says why k3s does not start on this boot; it is missing where it does.
const WaitingFile = "/run/pikelet/k3s-waits.txt"

// waitAlone waits, however long it takes, while this server must not start: while it
// has moved to another node, or another one of its cluster answers. What it waits for
// is in WaitingFile meanwhile.
func waitAlone(cfg *nodeconfig.Config, server string, out io.Writer) error {
	ask := func(addresses []string, cluster string) string {
		return answers.Elsewhere(context.Background(), addresses, cluster)
	}
	for said := ""; ; time.Sleep(askEvery) {
		why := notAlone(cfg, server, ask)
		if why == "" {
			if err := os.Remove(WaitingFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		}
		if why == said {
			continue
		}
		said = why
		fmt.Fprintf(out, "pikelet: k3s does not start: %s\n", why)
		if err := runfiles.Replace(WaitingFile, []byte(why+"\n"), 0o644); err != nil {
			return err
		}
	}
}

// notAlone returns why the server that is next must not start; "" where it may.
// ask returns an address at which a server of a cluster answers elsewhere.
func notAlone(cfg *nodeconfig.Config, server string, ask func(addresses []string, cluster string) string) string {
	next := datastore.Next(server)
	switch m, err := datastore.Fenced(next); {
	case err != nil:
		return "whether this server has moved is not known: " + err.Error()
	case m != nil:
		return fmt.Sprintf("this server moved to %s on %s; its data stays here, and never starts again", m.To, m.At.Format(time.RFC3339))
	}
	o := cfg.K3s.Options
	if cfg.K3s.Server != "" || o["datastore-endpoint"] != nil || fmt.Sprint(o["cluster-init"]) == "true" {
		return "" // one of several servers
	}
	if _, err := os.Stat(filepath.Join(next, "db/etcd")); err == nil {
		return ""
	}
	certificate, err := os.ReadFile(filepath.Join(next, "tls/server-ca.crt"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "" // its first start
		}
		return err.Error()
	}
	cluster, err := node.ClusterOf(certificate)
	if err != nil {
		return "" // k3s says what is wrong with it
	}
	origin, err := datastore.OriginOf(next)
	if err != nil {
		return err.Error()
	}
	if at := ask(strings.Fields(origin.Answers+" "+Addresses(cfg)), cluster); at != "" {
		return fmt.Sprintf("a server of its cluster answers at %s, and two of them destroy it; turn one of the two off", at)
	}
	return ""
}
