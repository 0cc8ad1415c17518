package program

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
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/command"
	"github.com/pikelet-os/pikelet/internal/device/agent/k3s"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/agent/volume"
	"github.com/pikelet-os/pikelet/internal/device/answers"
	"github.com/pikelet-os/pikelet/internal/device/backup"
	"github.com/pikelet-os/pikelet/internal/device/datastore"
	form "github.com/pikelet-os/pikelet/internal/shared/backup"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// k3sService is the service of k3s.
const k3sService = "pikelet-k3s"

// leases is where the API server keeps when it heard of each node
// (https://kubernetes.io/docs/concepts/architecture/leases/).
const leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"

// locked runs a step of a move: one at a time, and beside no backup.
func locked(use, short string, run func(c *cobra.Command) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		unlock, err := runfiles.Lock(node.BackupLock)
		if err != nil {
			return err
		}
		defer unlock()
		return run(c)
	}}
}

func newStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "print what server this node has, as JSON", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return printStatus(c.Context(), c.OutOrStdout()) },
	}
}

func newFence() *cobra.Command {
	var m datastore.Moved
	c := locked("fence --to NAME --id ID", "stop this server for good: it has moved to another node", func(c *cobra.Command) error {
		t, err := thisNode(c.Context())
		if err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(t.Dir, "tls/server-ca.crt")); err != nil {
			return fmt.Errorf("%w: %w", backup.ErrNoServer, err)
		}
		m.At = time.Now().UTC()
		// The mark comes first: from here on no start of the node starts k3s.
		if m, err = datastore.Fence(t.Dir, m); err != nil {
			return err
		}
		if err := stopServer(c.ErrOrStderr()); err != nil {
			return err
		}
		return printStatus(c.Context(), c.OutOrStdout())
	})
	c.Flags().StringVar(&m.To, "to", "", "`NAME` of the node that it moves to")
	c.Flags().StringVar(&m.ID, "id", "", "`ID` of the move")
	_ = c.MarkFlagRequired("to") // the flag exists
	_ = c.MarkFlagRequired("id") // the flag exists
	return c
}

func newUnfence() *cobra.Command {
	var id string
	c := locked("unfence --id ID", "take a move back that has not come to its end: start this server again", func(c *cobra.Command) error {
		m, err := datastore.Fenced(node.K3sServerDir)
		if err != nil {
			return err
		}
		if m != nil && m.ID != id {
			return fmt.Errorf("taking the move %s back: this server is fenced for another one: %s, to %s", id, m.ID, m.To)
		}
		if _, err := os.Stat(filepath.Join(node.K3sServerDir, "tls/server-ca.crt")); err != nil {
			return fmt.Errorf("taking the move %s back: the data of this server were discarded: %w", id, err)
		}
		if err := datastore.Unfence(node.K3sServerDir); err != nil {
			return err
		}
		_, err = command.Run("rc-service", k3sService, "restart")
		return err
	})
	c.Flags().StringVar(&id, "id", "", "`ID` of the move")
	_ = c.MarkFlagRequired("id") // the flag exists
	return c
}

func newDiscard() *cobra.Command {
	return locked("discard", "remove all data of a server that has moved", func(*cobra.Command) error {
		return datastore.Discard(node.K3sServerDir)
	})
}

func newDrop() *cobra.Command {
	return locked("drop", "forget a restored server that has not started yet", func(*cobra.Command) error {
		return datastore.Drop(node.K3sServerDir)
	})
}

func newProbe() *cobra.Command {
	return &cobra.Command{
		Use: "probe HOST:PORT CLUSTER", Short: "ask whether a server of a cluster answers at an address", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			err := answers.As(c.Context(), args[0], args[1])
			said := "yes"
			if err != nil {
				said = "no: " + err.Error()
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), said)
			return err
		},
	}
}

// stopServer stops k3s and the pods of this node, and returns when nothing writes to
// the datastore.
func stopServer(log io.Writer) error {
	if _, err := command.Run("rc-service", k3sService, "stop"); err != nil {
		return err
	}
	volume.EndContainers(log)
	return nil
}

// printStatus prints what server this node has.
func printStatus(ctx context.Context, out io.Writer) error {
	s, err := statusOf(ctx)
	if err != nil {
		return err
	}
	b, err := s.Encode()
	if err != nil {
		return err
	}
	_, err = out.Write(append(b, '\n'))
	return err
}

func statusOf(ctx context.Context) (form.Status, error) {
	var s form.Status
	cfg, err := runfiles.Config()
	if err != nil {
		return s, err
	}
	p, err := runfiles.Prepared()
	if err != nil {
		return s, err
	}
	v, err := runfiles.Volume()
	if err != nil {
		return s, err
	}
	s = form.Status{Node: p.Hostname, Role: cfg.K3s.Role, HostKey: p.HostKey, Answers: k3s.Addresses(cfg), Now: time.Now().UTC()}
	if !v.Mounted {
		s.Waiting = "the volume is not there: " + v.Waiting
		return s, nil
	}
	if s.K3s, err = k3s.Version(); err != nil {
		return s, err
	}
	if err := serverOf(&s, node.K3sServerDir); err != nil {
		return s, err
	}
	if s.Cluster != "" && s.Role == "server" {
		s.Serving = answers.As(ctx, k3s.Local(cfg), s.Cluster) == nil
	}
	if s.Serving {
		s.Heard = heard()
	}
	return s, nil
}

// serverOf completes a status by what lies in k3s' server directory.
func serverOf(s *form.Status, dir string) error {
	certificate, err := os.ReadFile(filepath.Join(dir, "tls/server-ca.crt"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		if s.Cluster, err = form.ClusterOf(certificate); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "db/etcd")); err == nil {
		s.Etcd = true
	}
	for _, name := range []string{"db/state.db", "db/state.db-wal"} {
		if st, err := os.Stat(filepath.Join(dir, name)); err == nil {
			s.Size += st.Size()
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(node.VolumeDir, &st); err != nil {
		return err
	}
	s.Free = int64(st.Bavail) * st.Bsize
	m, err := datastore.Fenced(dir)
	if err != nil {
		return err
	}
	if m != nil {
		s.Moved = &form.Moved{ID: m.ID, To: m.To, At: m.At}
	}
	// In this order: one becomes the other meanwhile.
	if s.Next, err = infoIn(datastore.Restored(dir)); err != nil {
		return err
	}
	s.Restored, err = infoIn(dir)
	return err
}

// infoIn returns which backup a server directory comes from; nil for none.
func infoIn(dir string) (*form.Info, error) {
	b, err := os.ReadFile(filepath.Join(dir, datastore.RestoredFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	i := &form.Info{}
	return i, json.Unmarshal(b, i)
}

// heard returns when the API server last heard of each node; nil where it does not
// say.
func heard() map[string]time.Time {
	// The kubeconfig that k3s writes for its own programs.
	out, err := command.Run("kubectl", "--kubeconfig", node.K3sServerDir+"/cred/admin.kubeconfig", "get", "--raw", leases)
	if err != nil {
		return nil
	}
	_, text, _ := strings.Cut(out, "{") // warnings come before it
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ RenewTime time.Time }
		}
	}
	if json.Unmarshal([]byte("{"+text), &list) != nil {
		return nil
	}
	times := map[string]time.Time{}
	for _, l := range list.Items {
		times[l.Metadata.Name] = l.Spec.RenewTime
	}
	return times
}
