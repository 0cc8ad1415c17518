package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/testing/rig/supervisor"
)

// server is the supervisor of a cluster, as an agent has it.
type server struct {
	base, password, node, ip string
	client                   *http.Client
}

// newServer asks a server for its authority, and has a token in full form vouch
// for it (k3s, pkg/clientaccess).
func newServer(base, token, node, ip string) (*server, error) {
	insecure := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := insecure.Get(base + "/cacerts")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	ca, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if full, is := strings.CutPrefix(token, "K10"); is {
		sum, rest, _ := strings.Cut(full, "::")
		if got := sha256.Sum256(ca); hex.EncodeToString(got[:]) != sum {
			return nil, errors.New("token CA hash does not match the Cluster CA certificate hash")
		}
		_, token, _ = strings.Cut(rest, ":")
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	return &server{base: base, password: token, node: node, ip: ip, client: client}, nil
}

func (s *server) get(path string) ([]byte, error) {
	req, err := http.NewRequest(http.MethodGet, s.base+"/v1-k3s/"+path, nil)
	if err != nil {
		return nil, err
	}
	password, err := os.ReadFile("/etc/rancher/node/password")
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth("node", s.password)
	req.Header.Set("k3s-Node-Name", s.node)
	req.Header.Set("k3s-Node-Password", strings.TrimSpace(string(password)))
	req.Header.Set("k3s-Node-IP", s.ip)
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", req.URL.Path, resp.Status, strings.TrimSpace(string(b)))
	}
	return b, err
}

// credentials are the certificates an agent asks for, and what it writes for whom.
var credentials = []struct{ file, kubeconfig string }{
	{"client-ca", ""},
	{"server-ca", ""},
	{"serving-kubelet", ""},
	{"client-kubelet", "kubelet"},
	{"client-kube-proxy", "kubeproxy"},
	{"client-k3s-controller", "k3scontroller"},
}

// fetch asks for all that an agent asks for, into where k3s has it.
func (s *server) fetch(api string) error {
	for _, c := range credentials {
		b, err := s.get(c.file + ".crt")
		if err != nil {
			return err
		}
		cert, key := splitPEM(b)
		at := filepath.Join(agentDir, c.file)
		if err := write(at+".crt", cert); err != nil {
			return err
		}
		if len(key) > 0 {
			if err := write(at+".key", key); err != nil {
				return err
			}
		}
		if c.kubeconfig == "" {
			continue
		}
		text := supervisor.Kubeconfig(api, agentDir+"/server-ca.crt", at+".crt", at+".key")
		if err := write(filepath.Join(agentDir, c.kubeconfig+".kubeconfig"), []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

func splitPEM(b []byte) (cert, key []byte) {
	for {
		p, rest := pem.Decode(b)
		if p == nil {
			return cert, key
		}
		if strings.Contains(p.Type, "PRIVATE KEY") {
			key = append(key, pem.EncodeToMemory(p)...)
		} else {
			cert = append(cert, pem.EncodeToMemory(p)...)
		}
		b = rest
	}
}

func write(name string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, text, 0o600)
}

// join waits for a server until it lets this node in, and starts an agent.
func (p *processes) join(ctx context.Context, o options, base string) error {
	node := o.one("node-name")
	if node == "" {
		var err error
		if node, err = os.Hostname(); err != nil {
			return err
		}
	}
	if o.one("token") == "" && base != ownSupervisor {
		return errors.New("--token is required")
	}
	ip, err := nodeIP(o)
	if err != nil {
		return err
	}
	const local = "127.0.0.1:6444" // on servers the API server itself
	api := "https://" + local
	token := o.one("token")
	if base == ownSupervisor {
		full, err := supervisor.Cluster{Dir: serverDir}.Token()
		if err != nil {
			return err
		}
		token = full
	} else if err := balance(local, base); err != nil {
		return err
	}
	var network supervisor.Network
	for {
		s, err := newServer(base, token, node, ip)
		if err == nil {
			err = s.fetch(api)
		}
		if err == nil {
			var b []byte
			if b, err = s.get("config"); err == nil {
				err = json.Unmarshal(b, &network)
			}
		}
		if err == nil {
			break
		}
		logf("Waiting to retrieve agent configuration; server is not ready: %v", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(3 * time.Second):
		}
	}
	logf("joined %s as %s, %s", base, node, ip)
	return p.agent(ctx, o, node, ip, network)
}

// nodeIP is the option, or the address of the default route's device.
func nodeIP(o options) (string, error) {
	if ip := o.one("node-ip"); ip != "" {
		return ip, nil
	}
	c, err := net.Dial("udp", "192.0.2.1:9") // sends nothing
	if err != nil {
		return "", fmt.Errorf("no default route: %w", err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).IP.String(), nil
}

// balance passes connections at a local port on to a server, as the load balancer
// of k3s' agents does.
func balance(local, base string) error {
	u, err := url.Parse(base)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", local)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				s, err := net.DialTimeout("tcp", u.Host, 10*time.Second)
				if err != nil {
					return
				}
				defer s.Close()
				go func() {
					io.Copy(s, c)
					s.(*net.TCPConn).CloseWrite()
				}()
				io.Copy(c, s)
			}()
		}
	}()
	return nil
}
