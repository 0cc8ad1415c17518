package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/backup"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
)

// room is what must be free on a volume beside a datastore, in bytes, as the node
// demands it.
const room = 64 << 20

func newMove(a *app) *cobra.Command {
	c := group(&cobra.Command{Use: "move", Short: "Move a k3s server to another node", GroupID: groupNodes})
	m := &move{app: a}
	var identity nodeOptions
	var undo, discard bool
	server := &cobra.Command{
		Use:   "server OLD NEW",
		Short: "Move the k3s server of one node to another",
		Long: `Move the k3s server of node OLD to node NEW, which runs already: OLD stops it for
good, the last backup of it is read back here, NEW restarts as that server, and the
agents are watched until they have followed. At no moment two servers run. Whatever
is interrupted, and whichever power is cut: the same command again goes on where it
was.

Agents that know the server by a name or an address that leads to NEW by then follow
by themselves. To others --send sends the config that the inventory has for them,
with the new k3s.server, and restarts them one after another.

OLD keeps its data, and never starts it again; --discard removes it, once NEW serves.
--undo takes back a move that NEW has not begun to serve.`,
		Example: `  pikelet move server attic.local cellar.local
  pikelet move server attic.local cellar.local --inventory nodes.yaml --send`,
		Args: exactly(2, "the node that has the server and the one that gets it, as ssh takes them"),
		RunE: func(c *cobra.Command, args []string) (err error) {
			m.old, m.new = args[0], args[1]
			if m.keys, err = identity.keys(); err != nil {
				return err
			}
			if m.file == "" {
				m.file = strings.ReplaceAll(m.old+"-to-"+m.new, "/", "_") + ".backup"
			}
			if err := m.loadAgents(); err != nil {
				return err
			}
			if undo {
				err = m.undo(c.Context())
			} else {
				err = m.run(c.Context(), discard)
			}
			if err != nil {
				return fmt.Errorf("moving the server of %s to %s: %w", m.old, m.new, err)
			}
			return nil
		},
	}
	f := server.Flags()
	f.StringVarP(&m.file, "output", "o", "", "`FILE` for the last backup, which stays (default: OLD-to-NEW.backup)")
	f.BoolVar(&m.replace, "replace", false, "put a server that NEW has aside")
	f.StringVar(&m.inventory, "inventory", "", "`FILE` that says how agents reach the server")
	f.BoolVar(&m.send, "send", false, "send agents that do not follow their config of the inventory, and restart them")
	f.DurationVar(&m.wait, "wait", 15*time.Minute, "how long to wait for a node that restarts")
	f.DurationVar(&m.follow, "follow", 3*time.Minute, "how long to wait for agents to follow by themselves")
	f.BoolVar(&undo, "undo", false, "take the move back: OLD serves again")
	f.BoolVar(&discard, "discard", false, "remove the data of OLD's server at the end")
	server.MarkFlagsMutuallyExclusive("undo", "discard")
	server.MarkFlagsMutuallyExclusive("undo", "send")
	addIdentityFlag(server, &identity.identity)
	m.ssh.addFlags(server)
	m.ssh.options = lostSoon
	c.AddCommand(server)
	return c
}

// move moves a server. Where it is, the two nodes say: nothing is kept here but the
// last backup.
type move struct {
	*app
	ssh            overSSH
	old, new       string // hosts, as ssh takes them
	file           string // of the last backup
	keys           *provision.Keys
	replace        bool
	inventory      string
	send           bool
	wait, follow   time.Duration
	agents         []agent // of the inventory
	oldNode        string  // the name of OLD in the cluster
	oldUnreachable error
}

// run does what is left of a move.
func (m *move) run(ctx context.Context, discard bool) error {
	id, new, err := m.where(ctx)
	if err != nil {
		return err
	}
	if !new.Has(id) && (new.Next == nil || new.Next.Move != id) {
		if err := m.lastBackup(ctx, id); err != nil {
			return err
		}
		if err := m.restoreThere(ctx); err != nil {
			return err
		}
	}
	if new, err = m.serves(ctx, id); err != nil {
		return err
	}
	m.log.Info("the server runs", "node", new.Node, "cluster", new.Cluster)
	if err := m.followed(ctx, new); err != nil {
		return err
	}
	if discard {
		if _, err := m.ask(ctx, m.old, nil, "discard"); err != nil {
			return err
		}
	}
	kept := fmt.Sprintf("%s keeps the data of its server, and never starts it; --discard removes it", m.old)
	if discard {
		kept = m.old + " keeps nothing of its server"
	}
	m.result(map[string]any{"node": new.Node, "cluster": new.Cluster, "backup": m.file, "discarded": discard},
		fmt.Sprintf("the server of cluster %s is %s now\n%s", new.Cluster, new.Node, kept))
	return nil
}

// where finds out how far the move has come, and fences the old server where it has
// not begun. It returns the id of the move, and what the new node has.
func (m *move) where(ctx context.Context) (id string, new backup.Status, err error) {
	old, oldErr := m.look(ctx, m.old)
	m.oldNode, m.oldUnreachable = old.Node, oldErr
	if oldErr != nil && !errors.Is(oldErr, errUnreachable) {
		return "", new, oldErr
	}
	begun := oldErr == nil && old.Moved != nil
	if new, err = m.awaitNew(ctx, begun); err != nil {
		return "", new, errors.Join(err, oldErr)
	}
	switch {
	case begun && old.Moved.To != new.Node:
		return "", new, hint.Withf(fmt.Errorf("the server moves to %s already", old.Moved.To), "pikelet move server %s %s --undo takes that back",
			m.old, old.Moved.To)
	case begun:
		m.log.Info("going on with a move that was begun", "at", old.Moved.At.Format(time.RFC3339))
		return old.Moved.ID, new, m.stopAgain(ctx, new, old.Moved.ID)
	case oldErr != nil:
		id, err := m.without(new, oldErr)
		return id, new, err
	}
	if err := m.possible(old, new); err != nil {
		return "", new, err
	}
	id = newID()
	if _, err := m.ask(ctx, m.old, nil, "fence", "--to", new.Node, "--id", id); err != nil {
		return "", new, hint.Withf(err, "run the same command again; or, with --undo, take it back")
	}
	m.log.Info("the old server has stopped, and never starts again", "node", old.Node)
	return id, new, nil
}

// stopAgain has the old node stop its server where it marked it and did no more.
func (m *move) stopAgain(ctx context.Context, new backup.Status, id string) error {
	if new.Has(id) {
		return nil
	}
	_, err := m.ask(ctx, m.old, nil, "fence", "--to", new.Node, "--id", id)
	return err
}

// without returns the id of a move whose old node does not answer any more: its last
// backup, there or here, shows that it is fenced.
func (m *move) without(new backup.Status, why error) (string, error) {
	for _, i := range []*backup.Info{new.Restored, new.Next, m.inFile()} {
		if i != nil && i.Move != "" && i.To == new.Node {
			m.log.Warn("the old node does not answer; it was fenced before its last backup", "node", i.Node)
			m.oldNode = i.Node
			return i.Move, nil
		}
	}
	return "", hint.With(why,
		"turn it on: its server has to be stopped and backed up. If it is gone for good, restore a backup: pikelet restore")
}

// inFile returns what the last backup here is of; nil where there is none that can
// be read.
func (m *move) inFile() *backup.Info {
	f, err := os.Open(m.file)
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := checkBackup(f, m.keys)
	if err != nil {
		return nil
	}
	return &info
}

// awaitNew returns what the new node has. Where a move has begun, it may be
// restarting.
func (m *move) awaitNew(ctx context.Context, begun bool) (new backup.Status, err error) {
	wait := m.wait
	if !begun {
		wait = 0
	}
	err = m.until(ctx, wait, func() (bool, error) {
		new, err = m.look(ctx, m.new)
		return err == nil, err
	})
	return new, err
}

// possible returns all reasons why a move cannot be begun.
func (m *move) possible(old, new backup.Status) error {
	var errs []error
	refuse := func(advice, text string, args ...any) {
		errs = append(errs, hint.With(fmt.Errorf(text, args...), advice))
	}
	if old.Cluster == "" || old.Role != "server" {
		refuse("name the node whose config has k3s.role: server first", "%s has no k3s server", m.old)
	}
	if old.Etcd {
		refuse("add servers to it, and remove this one: k3s moves the members of etcd itself", "the datastore of %s is etcd's", m.old)
	}
	if new.Role != "server" {
		refuse("send it such a config: pikelet node send", "the config of %s has no k3s.role: server", m.new)
	}
	if old.Node == new.Node {
		refuse("each node of a cluster has a name of its own", "%s and %s are both called %s", m.old, m.new, old.Node)
	}
	theirs, err := skew.Parse(old.K3s)
	ours, err2 := skew.Parse(new.K3s)
	if err := errors.Join(err, err2); err != nil {
		errs = append(errs, err)
	} else if theirs.Major > ours.Major || theirs.Major == ours.Major && theirs.Minor > ours.Minor {
		refuse("upgrade "+m.new+" first", "%s has k3s %s, and %s an older minor version, %s", m.old, old.K3s, m.new, new.K3s)
	}
	switch {
	case new.Cluster == "" || new.Moved != nil && new.Cluster == old.Cluster:
	case new.Cluster == old.Cluster:
		refuse("turn one of the two off now", "%s has a server of the same cluster", m.new)
	case !m.replace:
		refuse("--replace puts it aside", "%s has a server of its own, of cluster %s", m.new, new.Cluster)
	}
	if new.Free < old.Size+room {
		refuse("a larger volume", "too little space on the volume of %s: got %d MB, want %d MB", m.new, new.Free/1e6, (old.Size+room)/1e6)
	}
	if _, err := os.Lstat(m.file); err == nil {
		refuse("name another file with --output", "%s is there already, and is of an earlier move or of something else", m.file)
	}
	if len(m.keys.Recipients()) == 0 {
		refuse("age-keygen -o "+m.keys.File+" makes one", "no key to encrypt the last backup to")
	}
	return errors.Join(errs...)
}

// lastBackup makes sure that the last backup of a move is here and whole.
func (m *move) lastBackup(ctx context.Context, id string) error {
	if i := m.inFile(); i != nil && i.Move == id {
		return nil
	}
	if m.oldUnreachable != nil {
		return m.oldUnreachable
	}
	if _, err := os.Lstat(m.file); err == nil {
		return hint.With(fmt.Errorf("%s is there already, and is not the last backup of this move", m.file), "name another file with --output")
	}
	_, checked, err := m.fetchBackup(ctx, &m.ssh, m.old, m.file, m.keys.Recipients(), m.keys, "--last")
	if err != nil {
		return fmt.Errorf("taking the last backup: %w", err)
	}
	if !checked {
		return fmt.Errorf("taking the last backup: no key in %s opens it", m.keys.File)
	}
	if i := m.inFile(); i == nil || i.Move != id {
		return fmt.Errorf("taking the last backup: %s is not that of this move", m.file)
	}
	m.log.Info("the last backup is here, and read back", "file", m.file)
	return nil
}

// restoreThere has the new node become the server with its next start, and restart.
func (m *move) restoreThere(ctx context.Context) error {
	f, err := os.Open(m.file)
	if err != nil {
		return err
	}
	defer f.Close()
	plain, err := backup.Decrypt(f, m.keys.Identities()...)
	if err != nil {
		return err
	}
	verb := []string{"restore"}
	if m.replace {
		verb = append(verb, "--replace")
	}
	_, err = m.ask(ctx, m.new, plain, verb...)
	if err != nil && !errors.Is(err, errUnreachable) { // it restarts, and may be gone before ssh has its answer
		return err
	}
	return nil
}

// stuck is how long a node may have a restored server and not restart into it.
const stuck = time.Minute

// serves waits until the new node serves as what was moved.
func (m *move) serves(ctx context.Context, id string) (new backup.Status, err error) {
	first := time.Time{} // when the node was seen not to have restarted
	err = m.until(ctx, m.wait, func() (bool, error) {
		if new, err = m.look(ctx, m.new); err != nil {
			return false, err
		}
		switch {
		case new.Has(id) && new.Serving:
			return true, nil
		case new.Has(id):
			return false, fmt.Errorf("%s has the server, and it does not answer: %w", m.new, errNotYet)
		case new.Next == nil || new.Next.Move != id:
			return false, hint.With(fmt.Errorf("%s lost the connection before it had all of the server", m.new), "run the same command again")
		case first.IsZero():
			first = time.Now()
		case time.Since(first) > stuck:
			first = time.Now()
			if cmd, err := m.ssh.command(ctx, m.new, []string{"reboot"}); err == nil {
				_, _ = runOver(cmd, m.new, nil) // asked again by the next turn
			}
		}
		return false, fmt.Errorf("%s restarts: %w", m.new, errNotYet)
	})
	return new, err
}

// undo has the old node serve again, where the new one has not begun.
func (m *move) undo(ctx context.Context) error {
	old, err := m.look(ctx, m.old)
	if err != nil {
		return err
	}
	if old.Moved == nil {
		m.result(map[string]any{"undone": false}, m.old+" has not moved: nothing to undo")
		return nil
	}
	new, err := m.look(ctx, m.new)
	if err != nil {
		return hint.With(err, "turn it on: it may have begun to serve")
	}
	if new.Node != old.Moved.To {
		return fmt.Errorf("the server moves to %s, and %s is %s", old.Moved.To, m.new, new.Node)
	}
	if new.Next != nil {
		if _, err := m.ask(ctx, m.new, nil, "drop"); err != nil {
			return err
		}
		if new, err = m.look(ctx, m.new); err != nil {
			return err
		}
	}
	if new.Has(old.Moved.ID) || new.Next != nil {
		return hint.Withf(fmt.Errorf("%s has started as the server", m.new), "move it back: pikelet move server %s %s", m.new, m.old)
	}
	if _, err := m.ask(ctx, m.old, nil, "unfence", "--id", old.Moved.ID); err != nil {
		return err
	}
	m.result(map[string]any{"undone": true}, m.old+" serves again")
	return nil
}
