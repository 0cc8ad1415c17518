package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

const (
	dialLimit = 30 * time.Second
	// stallLimit is how long a connection may carry nothing: Amazon's S3 takes minutes
	// to put large objects together, and sends blanks meanwhile
	// (https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html).
	stallLimit = 5 * time.Minute
	// rewritten is how much of what an earlier upload left is written again, in bytes:
	// the end of it may not have reached the server's disk.
	rewritten = 4 << 20
)

// sftpStore is a directory on a server of SFTP.
type sftpStore struct {
	dir    string
	client *sftp.Client
	conn   *ssh.Client
	stop   func() bool // no longer wait for the end of the context
}

// openSFTP connects, to a server with a host key that was given.
func openSFTP(ctx context.Context, u *url.URL, l Location) (Store, error) {
	opening := func(err error) error { return fmt.Errorf("opening the store %s: %w", u.Redacted(), err) }
	config, err := sshConfig(u.User.Username(), l)
	if err != nil {
		return nil, opening(err)
	}
	port := u.Port()
	if port == "" {
		port = "22"
	}
	address := net.JoinHostPort(u.Hostname(), port)
	raw, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, opening(err)
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	failed := func(err error) (Store, error) {
		stop()
		raw.Close()
		return nil, opening(err)
	}
	limit := time.AfterFunc(dialLimit, func() { raw.Close() })
	defer limit.Stop()
	c, channels, requests, err := ssh.NewClientConn(raw, address, config)
	if err != nil {
		return failed(sshError(err))
	}
	conn := ssh.NewClient(c, channels, requests)
	client, err := sftp.NewClient(conn)
	if err != nil {
		return failed(err)
	}
	dir := u.Path
	if rest, home := strings.CutPrefix(dir, "/~/"); home {
		dir = path.Join(".", rest)
	}
	if st, err := client.Stat(dir); err != nil || !st.IsDir() {
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			err = hint.With(fmt.Errorf("directory %s: %w", dir, ErrNotFound), "make it there once")
		}
		return failed(err)
	}
	return &sftpStore{dir, client, conn, stop}, nil
}

// sshConfig returns how one logs in. A server whose key is not known is not talked to.
func sshConfig(user string, l Location) (*ssh.ClientConfig, error) {
	signer, err := ssh.ParsePrivateKey(l.SSHKey)
	if err != nil {
		return nil, hint.With(fmt.Errorf("reading the SSH key: %w", ErrDenied),
			"give a private key without a passphrase, as ssh-keygen makes it")
	}
	var keys []ssh.PublicKey
	var algorithms []string
	for _, line := range strings.Split(l.HostKey, "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, hint.With(fmt.Errorf("reading the host key: %w", err),
				"want a line such as ssh-ed25519 AAAA..., as ssh-keyscan prints it")
		}
		keys = append(keys, key)
		if key.Type() == ssh.KeyAlgoRSA {
			algorithms = append(algorithms, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		} else {
			algorithms = append(algorithms, key.Type())
		}
	}
	if len(keys) == 0 {
		return nil, hint.With(fmt.Errorf("%w: there is none", ErrHostKey),
			"give the server's public host key; a server is never trusted at first sight")
	}
	return &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyAlgorithms: algorithms, Timeout: dialLimit,
		HostKeyCallback: func(_ string, _ net.Addr, got ssh.PublicKey) error {
			for _, want := range keys {
				if bytes.Equal(want.Marshal(), got.Marshal()) {
					return nil
				}
			}
			return fmt.Errorf("%w: got %s", ErrHostKey, ssh.FingerprintSHA256(got))
		},
	}, nil
}

// sshError marks errors of a handshake.
func sshError(err error) error {
	switch {
	case errors.Is(err, ErrHostKey):
		return err
	case strings.Contains(err.Error(), "no common algorithm for host key"):
		return fmt.Errorf("%w: %w", ErrHostKey, err)
	case strings.Contains(err.Error(), "unable to authenticate"):
		return hint.With(fmt.Errorf("%w: %w", ErrDenied, err), "put the public half of the SSH key into authorized_keys there")
	}
	return err
}

// dial connects, and breaks a connection off that carries nothing for stallLimit.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialLimit}
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &watched{c, time.AfterFunc(stallLimit, func() { c.Close() })}, nil
}

type watched struct {
	net.Conn
	limit *time.Timer
}

// Read implements net.Conn.
func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.limit.Reset(stallLimit)
	return n, err
}

// Write implements net.Conn.
func (w *watched) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	w.limit.Reset(stallLimit)
	return n, err
}

// Close implements net.Conn.
func (w *watched) Close() error {
	w.limit.Stop()
	return w.Conn.Close()
}

// Put implements Store. What an earlier upload of the same name left is gone on with.
func (s *sftpStore) Put(_ context.Context, u Upload) error {
	if err := checkName(u.Name); err != nil {
		return err
	}
	if !u.Until.IsZero() {
		return hint.With(ErrLock, "leave lock out for SFTP")
	}
	if st, err := s.client.StatVFS(s.dir); err == nil && st.FreeSpace() < uint64(u.Size) {
		return hint.With(fmt.Errorf("writing %s: %w: got %d bytes, want %d", u.Name, ErrFull, st.FreeSpace(), u.Size),
			"make room there, or keep fewer backups (keep)")
	}
	part := path.Join(s.dir, "."+u.Name+unfinished)
	if err := s.write(part, u); err != nil {
		return fmt.Errorf("writing %s: %w", u.Name, full(err))
	}
	to := path.Join(s.dir, u.Name)
	if err := s.client.PosixRename(part, to); err != nil {
		if err := s.client.Rename(part, to); err != nil { // a server without OpenSSH's extension
			return fmt.Errorf("writing %s: %w", u.Name, err)
		}
	}
	return nil
}

func (s *sftpStore) write(part string, u Upload) error {
	f, err := s.client.OpenFile(part, os.O_CREATE|os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	at := max(0, min(st.Size(), u.Size)-rewritten)
	if st.Size() > u.Size {
		if err := f.Truncate(u.Size); err != nil {
			return err
		}
	}
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return err
	}
	if _, err := f.ReadFrom(io.NewSectionReader(u.From, at, u.Size-at)); err != nil {
		return err
	}
	var unsupported *sftp.StatusError
	if err := f.Sync(); err != nil && (!errors.As(err, &unsupported) || unsupported.FxCode() != sftp.ErrSSHFxOpUnsupported) {
		return err
	}
	return f.Close()
}

// Open implements Store.
func (s *sftpStore) Open(_ context.Context, name string, offset int64) (io.ReadCloser, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	f, err := s.client.Open(path.Join(s.dir, name))
	if err != nil {
		return nil, missing(err)
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Stat implements Store.
func (s *sftpStore) Stat(_ context.Context, name string) (Object, error) {
	if err := checkName(name); err != nil {
		return Object{}, err
	}
	st, err := s.client.Stat(path.Join(s.dir, name))
	if err != nil {
		return Object{}, missing(err)
	}
	o, _ := object(name, st.Size())
	return o, nil
}

// List implements Store.
func (s *sftpStore) List(ctx context.Context) ([]Object, error) {
	entries, err := s.client.ReadDirContext(ctx, s.dir)
	if err != nil {
		return nil, err
	}
	list := make([]fs.DirEntry, len(entries))
	for i, e := range entries {
		list[i] = fs.FileInfoToDirEntry(e)
	}
	return listed(list)
}

// Delete implements Store.
func (s *sftpStore) Delete(_ context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return missing(s.client.Remove(path.Join(s.dir, name)))
}

// Tidy implements Store.
func (s *sftpStore) Tidy(ctx context.Context, node string) error {
	entries, err := s.client.ReadDirContext(ctx, s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if of, ok := partOf(e.Name()); ok && of == node {
			if err := s.client.Remove(path.Join(s.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close implements Store.
func (s *sftpStore) Close() error {
	s.stop()
	// All is written, and the client would wait for the server to agree to the end.
	s.conn.Close()
	s.client.Close()
	return nil
}
