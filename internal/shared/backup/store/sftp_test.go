package store

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/pikelet-os/pikelet/internal/shared/backup/address"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

func newSSHKey(t *testing.T) (signer ssh.Signer, text []byte) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	if signer, err = ssh.NewSignerFromKey(private); err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

// sftpServer serves a directory to whoever has a key.
type sftpServer struct {
	dir      string
	host     ssh.Signer
	client   ssh.PublicKey
	location Location
	cut      atomic.Int64 // after so many bytes from the client the connection breaks off; 0 for never
}

func newSFTPServer(t *testing.T) *sftpServer {
	t.Helper()
	s := &sftpServer{dir: t.TempDir()}
	s.host, _ = newSSHKey(t)
	client, text := newSSHKey(t)
	s.client = client.PublicKey()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s.location = Location{Address: fmt.Sprintf("sftp://pi@%s%s", l.Addr(), s.dir), SSHKey: text,
		HostKey: string(ssh.MarshalAuthorizedKey(s.host.PublicKey()))}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(c)
		}
	}()
	return s
}

func (s *sftpServer) serve(raw net.Conn) {
	defer raw.Close()
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(s.client.Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	config.AddHostKey(s.host)
	c, channels, requests, err := ssh.NewServerConn(&cutting{Conn: raw, left: s.cut.Load()}, config)
	if err != nil {
		return
	}
	defer c.Close()
	go ssh.DiscardRequests(requests)
	for ch := range channels {
		channel, requests, err := ch.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range requests {
				r.Reply(r.Type == "subsystem" && strings.HasSuffix(string(r.Payload), "sftp"), nil)
			}
		}()
		server, err := sftp.NewServer(channel)
		if err != nil {
			return
		}
		go func() { server.Serve(); channel.Close() }()
	}
}

// cutting breaks off after some bytes.
type cutting struct {
	net.Conn
	left int64
}

func (c *cutting) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.left > 0 {
		if c.left -= int64(n); c.left <= 0 {
			c.Conn.Close()
			return 0, io.ErrUnexpectedEOF
		}
	}
	return n, err
}

func TestSFTP(t *testing.T) {
	server := newSFTPServer(t)
	s, err := Open(context.Background(), server.location)
	if err != nil {
		t.Fatal(err)
	}
	checkStore(t, s, func(name string) {
		if err := os.WriteFile(filepath.Join(server.dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestSFTPKnowsItsServer: a server that has another host key, or none that was
// given, gets no login; one that does not know the key gives none.
func TestSFTPKnowsItsServer(t *testing.T) {
	server := newSFTPServer(t)
	other, text := newSSHKey(t)
	for name, c := range map[string]struct {
		change func(*Location)
		want   error
	}{
		"another host key": {func(l *Location) { l.HostKey = string(ssh.MarshalAuthorizedKey(other.PublicKey())) }, ErrHostKey},
		"no host key":      {func(l *Location) { l.HostKey = "" }, ErrHostKey},
		"another kind of host key": {func(l *Location) {
			l.HostKey = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjN" +
				"uG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg="
		}, ErrHostKey},
		"another key":  {func(l *Location) { l.SSHKey = text }, ErrDenied},
		"no key":       {func(l *Location) { l.SSHKey = nil }, ErrDenied},
		"no directory": {func(l *Location) { l.Address += "/none" }, ErrNotFound},
	} {
		l := server.location
		c.change(&l)
		if s, err := Open(context.Background(), l); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, error %v, want %v", name, s, err, c.want)
		}
	}
}

// TestSFTPGoesOn: what a connection that broke off left is gone on with, and has no
// name before it is whole.
func TestSFTPGoesOn(t *testing.T) {
	server, ctx := newSFTPServer(t), context.Background()
	b, name := bytesOf(24<<20), address.NameOf("attic", made)
	server.cut.Store(16 << 20)
	s, err := Open(ctx, server.location)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(ctx, uploadOf(name, b)); err == nil {
		t.Fatal("an upload that broke off is kept")
	}
	s.Close()
	st, err := os.Stat(filepath.Join(server.dir, "."+name+".part"))
	if err != nil || st.Size() < 8<<20 {
		t.Fatalf("what was written is gone: %v", err)
	}
	if _, err := os.Stat(filepath.Join(server.dir, name)); err == nil {
		t.Error("what is not whole has a name")
	}
	server.cut.Store(20 << 20) // enough for the rest alone
	if s, err = Open(ctx, server.location); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Put(ctx, uploadOf(name, b)); err != nil {
		t.Fatal(err)
	}
	server.cut.Store(0)
	if err := Verify(ctx, s, name, int64(len(b)), image.DigestOf(b)); err != nil {
		t.Error(err)
	}
}
