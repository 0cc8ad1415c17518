// Package registrytest runs distribution, the registry that most others are
// made of, on loopback, for tests and make bench.
package registrytest

import (
	"bytes"
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
}

// Start starts a registry that keeps everything below dir. program is
// distribution's own, which make builds.
func Start(program, dir string, o Options) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: l.Addr().String()}
	l.Close()
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}, "+
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
	s.cmd = exec.Command(program, "serve", file)
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	s.cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	if err := s.cmd.Start(); err != nil {
		return nil, hint.With(fmt.Errorf("starting the registry: %w", err), "make tools builds it")
	}
	for range 200 {
		if c, err := net.Dial("tcp", s.Addr); err == nil {
			c.Close()
			return s, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.Stop()
	return nil, fmt.Errorf("the registry does not answer:\n%s", s.log.String())
}

// Stop ends the registry.
func (s *Server) Stop() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
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
