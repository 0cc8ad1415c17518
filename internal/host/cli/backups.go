package cli

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/backup"
	"github.com/pikelet-os/pikelet/internal/shared/backup/address"
	"github.com/pikelet-os/pikelet/internal/shared/backup/store"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// storeOptions say how a store of backups is talked to. What they leave open comes
// from where other clients of S3 and SSH look.
type storeOptions struct {
	endpoint, region, ca string
	sshKey, knownHosts   string
}

func (o *storeOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.endpoint, "endpoint", "", "`URL` of a server of S3 (default: $AWS_ENDPOINT_URL, or Amazon's)")
	f.StringVar(&o.region, "region", "", "`REGION` of the bucket (default: $AWS_REGION, or us-east-1)")
	f.StringVar(&o.ca, "ca", "", "`FILE` with the endpoint's certificate authority (default: $AWS_CA_BUNDLE, or the system's)")
	f.StringVar(&o.sshKey, "ssh-key", "", "private key `FILE` for SFTP (default: ~/.ssh/id_ed25519)")
	f.StringVar(&o.knownHosts, "known-hosts", "", "`FILE` with host keys for SFTP (default: ~/.ssh/known_hosts)")
}

const storeHelp = `
ADDRESS is a directory, sftp://USER@HOST/DIRECTORY or s3://BUCKET/PREFIX. Credentials
for S3 come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from the profile
AWS_PROFILE in ~/.aws/credentials; a server of SFTP must be in known_hosts.`

// location returns where an address leads.
func (o *storeOptions) location(where string) (store.Location, error) {
	l := store.Location{Address: where}
	kind, err := address.Check(where)
	if err != nil {
		return l, err
	}
	switch kind {
	case address.S3:
		return l, o.forS3(&l)
	case address.SFTP:
		return l, o.forSFTP(&l)
	}
	return l, nil
}

// first returns the first text that is not empty.
func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// forS3 reads the variables of Amazon's own clients
// (https://docs.aws.amazon.com/sdkref/latest/guide/environment-variables.html).
func (o *storeOptions) forS3(l *store.Location) error {
	l.Endpoint = first(o.endpoint, os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL"))
	l.Region = first(o.region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
	if ca := first(o.ca, os.Getenv("AWS_CA_BUNDLE")); ca != "" {
		var err error
		if l.CA, err = os.ReadFile(ca); err != nil {
			return err
		}
	}
	l.AccessKey, l.SecretKey = os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	l.SessionToken = os.Getenv("AWS_SESSION_TOKEN")
	if l.AccessKey != "" && l.SecretKey != "" {
		return nil
	}
	v, err := credentials.NewFileAWSCredentials("", "").GetWithContext(nil)
	if err != nil || v.AccessKeyID == "" {
		return hint.With(errors.New("no credentials for S3"),
			"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write them to ~/.aws/credentials")
	}
	l.AccessKey, l.SecretKey, l.SessionToken = v.AccessKeyID, v.SecretAccessKey, v.SessionToken
	return nil
}

// forSFTP reads a key, and the host keys that are known of a server.
func (o *storeOptions) forSFTP(l *store.Location) error {
	home, err := os.UserHomeDir()
	if err != nil {
		return err
	}
	if l.SSHKey, err = os.ReadFile(first(o.sshKey, filepath.Join(home, ".ssh", "id_ed25519"))); err != nil {
		return hint.With(err, "name a private key without a passphrase with --ssh-key")
	}
	file := first(o.knownHosts, filepath.Join(home, ".ssh", "known_hosts"))
	known, err := knownhosts.New(file)
	if err != nil {
		return hint.With(err, "name the file with the server's host key with --known-hosts")
	}
	u, err := url.Parse(l.Address)
	if err != nil {
		return address.ErrAddress
	}
	host := net.JoinHostPort(u.Hostname(), first(u.Port(), "22"))
	var want *knownhosts.KeyError
	if errors.As(known(host, unknownAddress{}, noKey{}), &want) {
		for _, k := range want.Want {
			l.HostKey += string(ssh.MarshalAuthorizedKey(k.Key))
		}
	}
	if l.HostKey == "" {
		return hint.With(fmt.Errorf("%s is not in %s", host, file), "ssh to it once, and compare its key")
	}
	return nil
}

// noKey is a key that no server has: what is known of a server is found by it.
type noKey struct{ ssh.PublicKey }

// Type implements ssh.PublicKey.
func (noKey) Type() string { return "none" }

// Marshal implements ssh.PublicKey.
func (noKey) Marshal() []byte { return nil }

// unknownAddress is the address of a server that is not connected to.
type unknownAddress struct{}

// Network implements net.Addr.
func (unknownAddress) Network() string { return "tcp" }

// String implements net.Addr.
func (unknownAddress) String() string { return "0.0.0.0:0" }

func newBackups(a *app) *cobra.Command {
	var at storeOptions
	c := &cobra.Command{
		Use:   "backups ADDRESS",
		Short: "List the backups in a store",
		Long:  "List the backups in a store, the oldest first.\n" + storeHelp,
		Example: `  pikelet backups /mnt/nas
  pikelet backups s3://backups/homes --endpoint https://nas.lan:9000`,
		GroupID: groupNodes,
		Args:    exactly(1, "the address of a store"),
		RunE: func(c *cobra.Command, args []string) error {
			list, err := a.listBackups(c.Context(), at, args[0])
			if err != nil {
				return fmt.Errorf("listing backups: %w", err)
			}
			var s strings.Builder
			w := tabwriter.NewWriter(&s, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NODE\tMADE\tMB\tNAME")
			for _, o := range list {
				fmt.Fprintf(w, "%s\t%s\t%.1f\t%s\n", o.Node, o.Made.Format(time.RFC3339), float64(o.Size)/1e6, o.Name)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			a.result(map[string]any{"backups": list}, strings.TrimRight(s.String(), "\n"))
			return nil
		},
	}
	at.addFlags(c)
	return c
}

func (a *app) listBackups(ctx context.Context, at storeOptions, where string) ([]store.Object, error) {
	s, err := openStore(ctx, at, where)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	list, err := s.List(ctx)
	if list == nil {
		list = []store.Object{}
	}
	return list, err
}

func openStore(ctx context.Context, at storeOptions, where string) (store.Store, error) {
	l, err := at.location(where)
	if err != nil {
		return nil, err
	}
	return store.Open(ctx, l)
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// keepBackup has a store keep a backup, and reads it back from there.
func keepBackup(ctx context.Context, at storeOptions, where, file, node string, made time.Time) (name string, err error) {
	s, err := openStore(ctx, at, where)
	if err != nil {
		return "", err
	}
	defer s.Close()
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return "", err
	}
	name = address.NameOf(notInNames.ReplaceAllString(node, "_"), made)
	if err := s.Put(ctx, store.Upload{Name: name, From: f, Size: size}); err != nil {
		return "", err
	}
	return name, store.Verify(ctx, s, name, size, image.DigestOfSum(sum.Sum(nil)))
}

// fromStore returns a backup as a file: one of a store is fetched, whole, to a
// directory that the caller removes. dir is "" for a file that is there.
func fromStore(ctx context.Context, at storeOptions, name string) (file, dir string, err error) {
	if !strings.Contains(name, "://") {
		return name, "", nil
	}
	n := strings.LastIndexByte(name, '/')
	where, name := name[:n], name[n+1:]
	s, err := openStore(ctx, at, where)
	if err != nil {
		return "", "", err
	}
	defer s.Close()
	o, err := s.Stat(ctx, name)
	if err != nil {
		return "", "", err
	}
	if dir, err = os.MkdirTemp("", "pikelet-restore-"); err != nil {
		return "", "", err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	file = filepath.Join(dir, name)
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	r := store.NewReader(ctx, s, o, 0)
	defer r.Close()
	if _, err := io.Copy(f, r); err != nil {
		return "", "", err
	}
	return file, dir, f.Close()
}

// restoreConfig returns the part of a node config that restores a backup: its name,
// and a key that opens that backup alone, encrypted to the keys that open it.
func restoreConfig(file string, keys *provision.Keys) (name, key string, err error) {
	if name = filepath.Base(file); !isBackup(name) {
		return "", "", hint.With(fmt.Errorf("%q is not the name of a backup in a store", name),
			"want NODE-TIME.backup, as pikelet backups lists them")
	}
	f, err := os.Open(file)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	plain, err := backup.KeyOf(f, keys.Identities()...)
	if err != nil {
		return "", "", err
	}
	key, err = provision.Encrypt(plain, keys.Recipients())
	return name, key, err
}

func isBackup(name string) bool {
	_, _, ok := address.ParseName(name)
	return ok
}
