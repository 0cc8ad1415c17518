// Package registrytest runs distribution, the registry that most others are
// made of, on loopback or in a network of virtual Pis, for tests and make bench.
package registrytest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Options are what the registry asks for.
type Options struct {
	TLS bool
	// Password requires User to log in with Secret.
	Password bool
}

// User and Secret let in where a password is asked for.
const (
	User   = "anna"
	Secret = "not-so-secret"
)

// secretHash is bcrypt's of Secret, as htpasswd -B writes it.
const secretHash = "$2a$04$ooniPm93gekcJSOVSyVRqum79v2/ipvMTxyFmsPZ8/ShlL.ol8Tki"

// Server is a registry that runs.
type Server struct {
	Addr string // host:port
	CA   string // file with the certificate, where it has TLS
	cmd  *exec.Cmd
	log  bytes.Buffer
	done chan struct{} // closed when the program has ended
}

// Start starts a registry that keeps everything below dir. program is
// distribution's own, which make builds. The registry answers when Start returns.
func Start(program, dir string, o Options) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l.Close()
	return start(exec.Command(program), dir, l.Addr().String(), o, new(net.Dialer).DialContext)
}

type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// start starts the program of a command, which still lacks its arguments.
func start(cmd *exec.Cmd, dir, addr string, o Options, dial dialer) (*Server, error) {
	s := &Server{Addr: addr, cmd: cmd, done: make(chan struct{})}
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %q}, "+
		"delete: {enabled: true}}\nhttp:\n  addr: %s\n", filepath.Join(dir, "data"), s.Addr)
	if o.TLS {
		s.CA = filepath.Join(dir, "ca.pem")
		key := filepath.Join(dir, "tls.key")
		if err := certificate(s.CA, key); err != nil {
			return nil, err
		}
		config += fmt.Sprintf("  tls: {certificate: %s, key: %s}\n", s.CA, key)
	}
	if o.Password {
		file := filepath.Join(dir, "htpasswd")
		if err := os.WriteFile(file, []byte(User+":"+secretHash+"\n"), 0o600); err != nil {
			return nil, err
		}
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s}}\n", file)
	}
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	s.cmd.Args = append(s.cmd.Args, "serve", file)
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	s.cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	if err := s.cmd.Start(); err != nil {
		return nil, hint.With(fmt.Errorf("starting the registry: %w", err), "make tools builds it")
	}
	go func() {
		s.cmd.Wait()
		close(s.done)
	}()
	// However busy the machine is: the registry answers, or ends.
	for {
		if c, err := dial(context.Background(), "tcp", s.Addr); err == nil {
			c.Close()
			return s, nil
		}
		select {
		case <-s.done:
			return nil, fmt.Errorf("the registry ended:\n%s", s.log.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the registry.
func (s *Server) Stop() {
	s.cmd.Process.Kill()
	<-s.done
}

// certificate makes a certificate for 127.0.0.1 that vouches for itself.
func certificate(cert, key string) error {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	t := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "a registry of a test"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &k.PublicKey, k)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return err
	}
	if err := os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return err
	}
	return os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
}
