package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/datastore"
	form "github.com/pikelet-os/pikelet/internal/shared/backup"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
)

// Errors of Restore. The node is left as it was.
var (
	// ErrOccupied is returned where the node is a server already.
	ErrOccupied = errors.New("this node has a k3s server already")
	// ErrNewer is returned for a backup of a newer minor version of Kubernetes, whose
	// datastore an older one must not read.
	ErrNewer = errors.New("the backup is of a newer Kubernetes")
	// ErrSeed is returned where the node's config gives another identity to the name
	// of the server that was backed up.
	ErrSeed = errors.New("the node has another identity than the server of the backup")
	// ErrToken is returned where the node's config gives another token to the cluster
	// than the backup has: k3s could not read its own datastore.
	ErrToken = errors.New("the node's config has another token than the cluster of the backup")
	// ErrAnswers is returned where the server of the backup, or another one of its
	// cluster, still answers elsewhere.
	ErrAnswers = errors.New("a server of this cluster still answers")
	// ErrElsewhere is returned for the last backup of a move to another node.
	ErrElsewhere = errors.New("the server of this backup moves to another node")
	// ErrRestored is returned where this very backup was restored before.
	ErrRestored = errors.New("this backup is restored already")
)

// Target is the node that a backup is restored to.
type Target struct {
	Server
	// ConfigSeed is the seed that the node's config has; "" for none.
	ConfigSeed string
	// Token is k3s.token of the node's config; "" for none.
	Token string
	// Replace puts a server that the node has aside.
	Replace bool
	// KeepSeed gives the node the seed of the backup from the next boot on. It is
	// called where its config has none.
	KeepSeed func(seed string) error
	// Elsewhere returns an address of some, as form.Info has them, at which a server of
	// a cluster answers that is not this node; "" for none.
	Elsewhere func(addresses, cluster string) string
}

// Restore checks a backup that is read from r, decrypted, and makes it the server
// that starts with the next boot. It returns what the backup is of.
func (t Target) Restore(ctx context.Context, r io.Reader) (form.Info, error) {
	ready, part := datastore.Restored(t.Dir), datastore.Restored(t.Dir)+".part"
	if err := os.RemoveAll(part); err != nil {
		return form.Info{}, err
	}
	defer os.RemoveAll(part)
	seed := ""
	info, err := form.Extract(r, func(i form.Info) error {
		if err := t.accept(i); err != nil {
			return err
		}
		return t.alone(i)
	}, func(name string, size int64, r io.Reader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if name == form.Seed {
			b, err := io.ReadAll(r)
			seed = strings.TrimSpace(string(b))
			return err
		}
		if name == form.StateDB {
			if err := room(filepath.Dir(t.Dir), size); err != nil {
				return err
			}
		}
		return place(filepath.Join(part, strings.TrimPrefix(name, form.Server)), r)
	})
	if err != nil {
		return info, fmt.Errorf("restoring: %w", err)
	}
	if seed, err = t.identity(info, seed); err != nil {
		return info, fmt.Errorf("restoring: %w", err)
	}
	if err := t.nameIsFree(ctx, part, info); err != nil {
		return info, fmt.Errorf("restoring: %w", err)
	}
	if err := checkPlaced(ctx, part, info); err != nil {
		return info, fmt.Errorf("restoring: %w: %w", form.ErrDamaged, err)
	}
	if err := t.checkToken(part); err != nil {
		return info, fmt.Errorf("restoring: %w", err)
	}
	text, err := json.Marshal(info)
	if err != nil {
		return info, err
	}
	if err := place(filepath.Join(part, restored), strings.NewReader(string(text))); err != nil {
		return info, err
	}
	// A server with the identity of another would be refused, so the identity comes
	// first; without the server it is harmless.
	if seed != "" {
		if err := t.KeepSeed(seed); err != nil {
			return info, err
		}
	}
	return info, datastore.Prepare(ready, part)
}

// alone reports why this node would not be the only server of the cluster.
func (t Target) alone(i form.Info) error {
	if i.Move != "" && i.To != t.Node {
		return hint.Withf(fmt.Errorf("%w: got %s, want %s", ErrElsewhere, t.Node, i.To), "pikelet move server %s %s", i.Node, i.To)
	}
	if at := t.Elsewhere(i.Answers+" "+t.Answers, i.Cluster); at != "" {
		return hint.Withf(fmt.Errorf("%w, at %s: two of them destroy it", ErrAnswers, at),
			"turn that server off; or, pikelet move server %s %s moves it", i.Node, t.Node)
	}
	return nil
}

// accept reports why a backup may not be restored here.
func (t Target) accept(i form.Info) error {
	theirs, err := skew.Parse(i.K3s)
	if err != nil {
		return fmt.Errorf("%w: %w", form.ErrDamaged, err)
	}
	ours, err := skew.Parse(t.K3s)
	if err != nil {
		return fmt.Errorf("the version of this node's k3s: %w", err)
	}
	if theirs.Major > ours.Major || theirs.Major == ours.Major && theirs.Minor > ours.Minor {
		return hint.With(fmt.Errorf("%w: got %s, want at most that of this node's release, %s", ErrNewer, theirs, ours),
			"upgrade this node first, to a release with that Kubernetes")
	}
	gone, err := datastore.Fenced(t.Dir)
	if err != nil {
		return err
	}
	if gone != nil && (i.Move == "" || i.Move == gone.ID) {
		return hint.Withf(fmt.Errorf("%w: to %s", datastore.ErrMoved, gone.To), "pikelet move server %s %s moves it back", gone.To, t.Node)
	}
	certificate, err := os.ReadFile(filepath.Join(t.Dir, authority))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	cluster, err := form.ClusterOf(certificate)
	if err != nil {
		return err
	}
	var last form.Info
	if b, err := os.ReadFile(filepath.Join(t.Dir, restored)); err == nil && json.Unmarshal(b, &last) == nil && last == i {
		return ErrRestored
	}
	switch {
	case t.Replace || gone != nil:
		return nil
	case cluster != i.Cluster:
		return hint.With(fmt.Errorf("%w, of another cluster: got %s, want %s", ErrOccupied, cluster, i.Cluster),
			"--replace puts that server aside")
	}
	return hint.With(fmt.Errorf("%w, of the same cluster", ErrOccupied), "--replace puts what it has now aside, and goes back to the backup")
}

// identity returns the seed that the node must have: k3s knows a server by a
// password that comes from it.
func (t Target) identity(i form.Info, seed string) (string, error) {
	if i.Adopted {
		return "", nil
	}
	if _, err := node.NewIdentity(i.Node, seed); err != nil {
		return "", fmt.Errorf("%w: %w", form.ErrDamaged, err)
	}
	switch {
	case t.ConfigSeed == "":
		return seed, nil
	case t.Node == i.Node && t.ConfigSeed != seed:
		return "", hint.With(fmt.Errorf("%w, %s: k3s would refuse it", ErrSeed, i.Node),
			"give the node the config that the inventory has for that name, or another hostname")
	}
	return "", nil
}

// nameIsFree reports why k3s would refuse this node in a cluster that another program
// ran: it knows each node by a password, and that of a node with the same name is not
// this one's (k3s-io/k3s, pkg/nodepassword).
func (t Target) nameIsFree(ctx context.Context, dir string, i form.Info) error {
	if !i.Adopted {
		return nil
	}
	taken, err := hasObject(ctx, filepath.Join(dir, database), "/registry/secrets/kube-system/"+t.Node+".node-password.k3s")
	if err != nil {
		return fmt.Errorf("%w: %w", form.ErrDamaged, err)
	}
	if taken {
		return hint.With(fmt.Errorf("%w: the cluster knows a node %s by another password, and k3s would refuse this one", ErrSeed, t.Node),
			"give this node another hostname; or delete the secret "+t.Node+".node-password.k3s of kube-system, and adopt the server again")
	}
	return nil
}

// checkToken compares the token of the node's config with that of a backup: k3s
// encrypts with it what it keeps in the datastore of certificates (docs/platform.md 7.3).
// A token is K10HASH::USER:SECRET, or SECRET alone.
func (t Target) checkToken(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "token"))
	if t.Token == "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if secretOf(string(b)) != secretOf(t.Token) {
		return hint.With(ErrToken, "set k3s.token to the token that the cluster had, or leave it out")
	}
	return nil
}

func secretOf(token string) string {
	token = strings.TrimSpace(token)
	if _, rest, ok := strings.Cut(token, "::"); ok && strings.HasPrefix(token, "K10") {
		_, token, _ = strings.Cut(rest, ":")
	}
	return token
}

// checkPlaced checks what a backup says against what it holds.
func checkPlaced(ctx context.Context, dir string, i form.Info) error {
	certificate, err := os.ReadFile(filepath.Join(dir, authority))
	if err != nil {
		return err
	}
	cluster, err := form.ClusterOf(certificate)
	if err != nil {
		return err
	}
	if cluster != i.Cluster {
		return fmt.Errorf("server CA mismatch: got %s, want %s", cluster, i.Cluster)
	}
	return checkDatabase(ctx, filepath.Join(dir, database))
}

// place writes a file, and returns when it is on the disk.
func place(name string, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}
