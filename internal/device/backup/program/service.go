package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/pikelet-os/pikelet/internal/device/agent/advice"
	"github.com/pikelet-os/pikelet/internal/device/agent/apiserver"
	"github.com/pikelet-os/pikelet/internal/device/agent/clock"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/agent/shutdown"
	"github.com/pikelet-os/pikelet/internal/device/agent/statefile"
	"github.com/pikelet-os/pikelet/internal/device/backup"
	"github.com/pikelet-os/pikelet/internal/device/datastore"
	"github.com/pikelet-os/pikelet/internal/shared/backup/store"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

const (
	// memoryLimit is what the collector of garbage aims for, in bytes: what a backup
	// takes of a node's memory is not there for pods.
	memoryLimit = 40 << 20
	// tick is how often the service looks whether a backup is due: the clock may jump.
	tick = time.Minute
	// What fails is tried again after retryFirst, twice as long each time, up to
	// retryLast.
	retryFirst = 5 * time.Minute
	retryLast  = time.Hour
	// clockPatience is how long a time server may take: stores refuse requests of
	// another time.
	clockPatience = 10 * time.Minute
	// spoolLock is held while a backup is made and brought to the store, which may
	// take hours: other work on the server does not wait for the store.
	spoolLock = "/run/pikelet/backup-spool.lock"
)

// service makes backups when they are due, and tells of them.
type service struct {
	config nodeconfig.Backup
	clock  clock.Clock
	make   func(context.Context, time.Time) (backup.Made, error)
	read   func() (node.BackupStatus, error)
	write  func(node.BackupStatus) error
	tell   func(context.Context, apiserver.Event) error
	name   string // of the node
	log    *slog.Logger
	told   string // the last trouble that the cluster knows of
}

// serve makes backups until ctx ends.
func serve(ctx context.Context, log *slog.Logger) error {
	debug.SetMemoryLimit(memoryLimit)
	cfg, err := runfiles.Config()
	if err != nil {
		return err
	}
	p, err := runfiles.Prepared()
	if err != nil {
		return err
	}
	s := newService(cfg.Backup, p.Hostname, log)
	s.run(ctx)
	return nil
}

func newService(b nodeconfig.Backup, name string, log *slog.Logger) *service {
	return &service{config: b, clock: clock.New(), make: makeNow, read: readStatus, name: name, log: log,
		write: func(s node.BackupStatus) error { return writeStatus(s, b.OldAfter()) },
		tell: func(ctx context.Context, e apiserver.Event) error {
			c, err := apiserver.Open(apiserver.KubeletConfig)
			if err != nil {
				return err
			}
			return c.Record(ctx, e)
		}}
}

func (s *service) run(ctx context.Context) {
	for !s.clock.Synchronised() && s.clock.Elapsed() < clockPatience {
		if !s.clock.Sleep(ctx, time.Second) {
			return
		}
	}
	for {
		if err := s.turn(ctx); err != nil {
			s.log.Error("keeping the status of backups", "err", err)
		}
		if !s.clock.Sleep(ctx, tick) {
			return
		}
	}
}

// turn makes a backup where one is due, and tells of trouble that is new or over.
func (s *service) turn(ctx context.Context) error {
	status, err := s.read()
	if err != nil {
		s.log.Warn("the status of backups is lost", "err", err)
	}
	if status.Store != s.config.To {
		status = node.BackupStatus{Store: s.config.To} // what another store has says nothing of this one
	}
	now := s.clock.Now()
	if !now.Before(s.due(status, now)) {
		made, err := s.make(ctx, now)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, backup.ErrNoServer) {
			return nil // k3s has not made it yet
		}
		status = after(status, made, err, now, s.clock.Now())
		if err != nil {
			s.log.Error("the backup failed", "err", advice.Text(err), "kept", made.Name)
		} else {
			s.log.Info("backed up", "name", made.Name, "bytes", made.Size, "deleted", strings.Join(made.Deleted, " "))
		}
	}
	if err := s.write(status); err != nil {
		return err
	}
	s.report(ctx, status, now)
	return nil
}

// due returns when the next backup is to be tried.
func (s *service) due(status node.BackupStatus, now time.Time) time.Time {
	due := s.config.Schedule().Next(seconds(status.Success), now)
	if status.Failures == 0 {
		return due
	}
	wait := retryLast
	if n := status.Failures - 1; n < 4 {
		wait = min(wait, retryFirst<<n)
	}
	again := seconds(status.Attempt).Add(wait)
	if again.After(due) && !again.After(now.Add(retryLast)) { // a later one is of another clock
		return again
	}
	return due
}

func seconds(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(n, 0)
}

// after returns the status after a backup that was made, or was not.
func after(s node.BackupStatus, made backup.Made, err error, began, ended time.Time) node.BackupStatus {
	s.Attempt = ended.Unix()
	if made.Name != "" { // also where only the deletion of others failed
		s.Name, s.Size, s.Success, s.Seconds = made.Name, made.Size, made.At.Unix(), ended.Sub(began).Seconds()
	}
	if err != nil {
		s.Failures++
		s.Problem = advice.Text(err)
		return s
	}
	s.Failures, s.Problem = 0, ""
	return s
}

// report has the cluster know of trouble that is new, and of its end.
func (s *service) report(ctx context.Context, status node.BackupStatus, now time.Time) {
	trouble, e := status.Trouble(s.config.OldAfter(), now), apiserver.Event{Node: s.name, At: now}
	if status.Success == 0 && status.Problem == "" || kind(trouble) == kind(s.told) {
		return
	}
	switch {
	case trouble == "":
		e.Reason, e.Message = "BackedUp", status.Name+" is whole in "+status.Store
	case status.Problem != "":
		e.Warning, e.Reason, e.Message = true, "BackupFailed", trouble
	default:
		e.Warning, e.Reason, e.Message = true, "BackupTooOld", trouble
	}
	if err := s.tell(ctx, e); err != nil {
		s.log.Warn("telling the cluster of backups", "err", err) // and again at the next turn
		return
	}
	s.told = trouble
}

// kind is what trouble is about: its details change at each try.
func kind(trouble string) string {
	text, _, _ := strings.Cut(trouble, ":")
	return text
}

func readStatus() (node.BackupStatus, error) {
	b, err := os.ReadFile(node.BackupFile)
	if errors.Is(err, fs.ErrNotExist) {
		return node.BackupStatus{}, nil
	}
	if err != nil {
		return node.BackupStatus{}, err
	}
	return node.DecodeBackup(b)
}

// writeStatus writes to the card only what is new.
func writeStatus(s node.BackupStatus, oldAfter time.Duration) error {
	b, err := s.Encode()
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(node.BackupFile); err != nil || string(old) != string(b) {
		if err := statefile.Write(node.BackupFile, b); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(node.MetricsFile), 0o755); err != nil {
		return err
	}
	return runfiles.Replace(node.MetricsFile, []byte(s.Metrics(oldAfter)), 0o644)
}

// makeNow makes a backup as the node config says.
func makeNow(ctx context.Context, now time.Time) (backup.Made, error) {
	unlock, err := runfiles.Lock(spoolLock)
	if err != nil {
		return backup.Made{}, err
	}
	defer unlock()
	t, err := thisNode(ctx)
	if err != nil {
		return backup.Made{}, err
	}
	moved, err := datastore.Fenced(t.Dir)
	if err != nil {
		return backup.Made{}, err
	}
	if moved != nil {
		return backup.Made{}, fmt.Errorf("%w: it moved to %s", backup.ErrNoServer, moved.To)
	}
	cfg, err := runfiles.Config()
	if err != nil {
		return backup.Made{}, err
	}
	j, err := jobOf(cfg.Backup, t.Server)
	if err != nil {
		return backup.Made{}, err
	}
	j.Exclusive = func() (func(), error) { return runfiles.Lock(node.BackupLock) }
	return j.Run(ctx, now)
}

// jobOf returns what a config says of backups.
func jobOf(b nodeconfig.Backup, s backup.Server) (backup.Job, error) {
	list, err := age.ParseRecipients(strings.NewReader(strings.Join(b.Recipients, "\n")))
	if err != nil {
		return backup.Job{}, fmt.Errorf("reading backup.recipients: %w", err)
	}
	l, err := locationOf(b)
	return backup.Job{Server: s, Location: l, Recipients: list, Keep: store.Keep(b.Keep), Lock: time.Duration(b.Lock),
		Fresh: b.Schedule().Period()}, err
}

// locationOf returns where a config has backups.
func locationOf(b nodeconfig.Backup) (store.Location, error) {
	l := store.Location{Address: b.To, Endpoint: b.Endpoint, Region: b.Region, AccessKey: b.AccessKey, SecretKey: b.SecretKey,
		SSHKey: []byte(b.SSHKey), HostKey: b.HostKey}
	if b.CA == "" {
		return l, nil
	}
	var err error
	if l.CA, err = os.ReadFile(b.CA); err != nil {
		return l, hint.With(fmt.Errorf("reading backup.ca: %w", err), "bring it in files of the node config, or in a layer")
	}
	return l, nil
}

// fetch restores what the node config says, on a node that has no server yet. It
// returns once k3s may start: where the identity is new, not before the restart.
func fetch(ctx context.Context, out io.Writer) error {
	debug.SetMemoryLimit(memoryLimit)
	unlock, err := runfiles.Lock(node.BackupLock)
	if err != nil {
		return err
	}
	defer unlock()
	t, err := thisNode(ctx)
	if err != nil {
		return err
	}
	cfg, err := runfiles.Config()
	if err != nil {
		return err
	}
	l, err := locationOf(cfg.Backup)
	if err != nil {
		return err
	}
	anew := false
	t.KeepSeed = func(seed string) error {
		old, _ := os.ReadFile(node.SeedFile)
		anew = strings.TrimSpace(string(old)) != seed
		return statefile.Write(node.SeedFile, []byte(seed+"\n"))
	}
	info, err := t.Fetch(ctx, l, cfg.Restore.Name, cfg.Restore.Key)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "restored %s of %s, cluster %s\n", info.Node, info.Made.Format(time.RFC3339), info.Cluster)
	if !anew {
		return nil
	}
	fmt.Fprintln(out, node.Restarting("with the identity of the restored server"))
	if err := shutdown.Reboot(""); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}
