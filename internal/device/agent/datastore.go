package agent

import (
	"os"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/datastore"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// k3sServer is where a k3s server keeps its datastore, token and certificates.
const k3sServer = k3sData + "/server"

// datastoreFile holds what became of the datastore on this boot.
const datastoreFile = "/run/pikelet/datastore.txt"

// defaultCopies is how many copies of the datastore are kept.
const defaultCopies = 3

// k3sVersion asks k3s for its version.
func k3sVersion(program string) string {
	out, err := run(program, "--version")
	if err != nil {
		return "" // of no known version; nothing is put back then
	}
	line, _, _ := strings.Cut(out, "\n")
	return strings.TrimSpace(strings.TrimPrefix(line, "k3s version "))
}

// saveDatastore stops k3s and copies the datastore of a server that is about
// to restart into another release.
func saveDatastore(cfg *nodeconfig.Config, b node.Boot, u slots.Update) error {
	if cfg.K3s.Role != "server" {
		return nil
	}
	program, err := k3sProgram()
	if err != nil {
		return err
	}
	if _, err := run("rc-service", "pikelet-k3s", "stop"); err != nil {
		return err
	}
	copies := cfg.Datastore.Copies
	if copies == 0 {
		copies = defaultCopies
	}
	_, err = datastore.Save(k3sServer, datastore.Copy{Slot: string(b.Slot), Release: b.Release, K3s: k3sVersion(program), For: u.Digest}, copies)
	return err
}

// startK3s starts k3s again after it was stopped for nothing.
func startK3s() {
	if cfg, err := readConfig(); err == nil && cfg.K3s.Role == "server" {
		if _, err := run("rc-service", "pikelet-k3s", "start"); err != nil {
			tell("k3s was stopped to copy its datastore, and does not start again: " + err.Error())
		}
	}
}

// startDatastore is what happens to a server's datastore before k3s starts.
func startDatastore(cfg *nodeconfig.Config, program string) error {
	b, err := readBoot()
	if err != nil {
		return err
	}
	left := ""
	if u := lastUpdate(b.Disk); u != nil && u.Step != slots.Finished && u.Slot != b.Slot {
		left = u.Digest
	}
	now := datastore.Ran{Slot: string(b.Slot), Release: b.Release, Digest: b.Signed, K3s: k3sVersion(program)}
	told, err := datastore.Start(k3sServer, now, left, cfg.Datastore.OnLeft == nodeconfig.OnLeftKeep)
	if told != "" {
		tell(told)
		if err := os.WriteFile(datastoreFile, []byte(told+"\n"), 0o644); err != nil {
			return err
		}
	}
	return err
}
