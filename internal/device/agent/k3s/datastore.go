package k3s

import (
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/agent/card"
	"github.com/pikelet-os/pikelet/internal/device/agent/command"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/datastore"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// DatastoreFile holds a warning about the datastore on this boot; it is missing
// where there is none.
const DatastoreFile = "/run/pikelet/datastore.txt"

// defaultCopies is how many copies of the datastore are kept.
const defaultCopies = 3

// Version asks the image's k3s for its version, such as v1.34.4+k3s1: what it prints
// has its commit behind that.
func Version() (string, error) {
	program, err := findProgram()
	if err != nil {
		return "", err
	}
	v := strings.Fields(version(program))
	if len(v) == 0 {
		return "", fmt.Errorf("asking %s for its version: no answer", program)
	}
	return v[0], nil
}

// version asks k3s for its version.
func version(program string) string {
	out, err := command.Run(program, "--version")
	if err != nil {
		return "" // of no known version; nothing is put back then
	}
	line, _, _ := strings.Cut(out, "\n")
	return strings.TrimSpace(strings.TrimPrefix(line, "k3s version "))
}

// SaveDatastore stops k3s and copies the datastore of a server that is about
// to restart into another release.
func SaveDatastore(cfg *nodeconfig.Config, b node.Boot, u slots.Update) error {
	if cfg.K3s.Role != "server" {
		return nil
	}
	program, err := findProgram()
	if err != nil {
		return err
	}
	if _, err := command.Run("rc-service", "pikelet-k3s", "stop"); err != nil {
		return err
	}
	copies := cfg.Datastore.Copies
	if copies == 0 {
		copies = defaultCopies
	}
	c := datastore.Copy{Slot: string(b.Slot), Release: b.Release, K3s: version(program), For: u.Digest}
	_, err = datastore.Save(node.K3sServerDir, c, copies)
	return err
}

// Start starts k3s again after it was stopped for nothing.
func Start(log *slog.Logger) {
	if cfg, err := runfiles.Config(); err == nil && cfg.K3s.Role == "server" {
		if _, err := command.Run("rc-service", "pikelet-k3s", "start"); err != nil {
			log.Error("starting k3s again after copying its datastore", "err", err)
		}
	}
}

// startDatastore is what happens to a server's datastore before k3s starts.
func startDatastore(cfg *nodeconfig.Config, program string, log *slog.Logger) error {
	unlock, err := runfiles.Lock(node.BackupLock)
	if err != nil {
		return err
	}
	aside, err := datastore.Adopt(node.K3sServerDir)
	unlock()
	if err != nil {
		return fmt.Errorf("starting the restored server: %w", err)
	}
	if aside != "" {
		log.Warn("a restored server takes the place of the one before", "aside", aside)
	}
	b, err := runfiles.Boot()
	if err != nil {
		return err
	}
	left := ""
	if u := card.LastUpdate(b.Disk); u != nil && u.Step != slots.Finished && u.Slot != b.Slot {
		left = u.Digest
	}
	now := datastore.Ran{Slot: string(b.Slot), Release: b.Release, Digest: b.Signed, K3s: version(program)}
	notice, err := datastore.Start(node.K3sServerDir, now, left, cfg.Datastore.OnLeft == nodeconfig.OnLeftKeep)
	if notice != "" {
		log.Warn("an upgrade that was left wrote to the datastore", "notice", notice)
		if err := os.WriteFile(DatastoreFile, []byte(notice+"\n"), 0o644); err != nil {
			return err
		}
	}
	return err
}
