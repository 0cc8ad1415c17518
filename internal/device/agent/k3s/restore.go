package k3s

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os/exec"

	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/datastore"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// restoration is what happens to a server's directory before k3s sees it.
type restoration struct {
	server  string // k3s' server directory
	program string // pikelet-backup
	lock    string // held while a server takes its place
	out     io.Writer
	log     *slog.Logger
}

// run has a restored server take its place. A node without any fetches the backup that
// its config names, and k3s does not start before it has it: it would begin a new
// cluster.
func (r restoration) run(config nodeconfig.Restore) error {
	if err := r.adopt(); err != nil {
		return err
	}
	if config.Name == "" || datastore.Exists(r.server) {
		return nil
	}
	r.log.Warn("this node has no server yet: restoring one", "backup", config.Name)
	cmd := exec.Command(r.program, "fetch")
	cmd.Stdout, cmd.Stderr = r.out, r.out
	err := cmd.Run()
	if errors.Is(err, fs.ErrNotExist) {
		return hint.With(errors.New("restore: this image restores no backups"), "add the overlay backup to its spec")
	}
	if err != nil {
		return fmt.Errorf("restoring %s: %w", config.Name, err)
	}
	if err := r.adopt(); err != nil {
		return err
	}
	if !datastore.Exists(r.server) {
		return fmt.Errorf("restoring %s: there is no server after it", config.Name)
	}
	return nil
}

func (r restoration) adopt() error {
	unlock, err := runfiles.Lock(r.lock)
	if err != nil {
		return err
	}
	aside, err := datastore.Adopt(r.server)
	unlock()
	if err != nil {
		return fmt.Errorf("starting the restored server: %w", err)
	}
	if aside != "" {
		r.log.Warn("a restored server takes the place of the one before", "aside", aside)
	}
	return nil
}
