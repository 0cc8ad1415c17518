package upgrade

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"log/slog"

	"github.com/pikelet-os/pikelet/internal/device/agent/apiserver"
	"github.com/pikelet-os/pikelet/internal/device/agent/card"
	"github.com/pikelet-os/pikelet/internal/device/agent/checks"
	"github.com/pikelet-os/pikelet/internal/device/agent/clock"
	"github.com/pikelet-os/pikelet/internal/device/agent/feeder"
	"github.com/pikelet-os/pikelet/internal/device/agent/k3s"
	"github.com/pikelet-os/pikelet/internal/device/agent/machine"
	"github.com/pikelet-os/pikelet/internal/device/agent/motd"
	"github.com/pikelet-os/pikelet/internal/device/agent/mounts"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/agent/shutdown"
	"github.com/pikelet-os/pikelet/internal/device/updater"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// host is this machine, as the updater sees it.
type host struct {
	clock.System
	boot node.Boot
	cfg  *nodeconfig.Config
	card *card.Card
}

var _ updater.Node = host{}

// newUpdater returns what upgrades this node, and a function that closes it.
func newUpdater(b node.Boot, log *slog.Logger) (*updater.Updater, func(), error) {
	cfg, err := runfiles.Config()
	if err != nil {
		return nil, nil, err
	}
	d, err := runfiles.Defaults()
	if err != nil {
		return nil, nil, err
	}
	keys, err := trusted(b)
	if err != nil {
		return nil, nil, err
	}
	if b.Slot == slots.Net {
		return nil, nil, updater.ErrNoCard
	}
	c, err := card.Open(b.Disk)
	if err != nil {
		return nil, nil, err
	}
	return &updater.Updater{
		Card: c.Medium(), Table: c.Table, Soak: d.Soak, Deadline: d.Deadline,
		Boot: updater.Boot{
			Slot: b.Slot, Kind: b.Kind, Digest: b.Signed, Keys: keys, Stream: b.Stream, Release: b.Release,
			Arch: arch, Board: machine.Board(), Failed: b.Failed, Reset: machine.LastReset(),
		},
		Node: host{clock.New(), b, cfg, c}, Log: log,
	}, func() { c.Close() }, nil
}

// trusted returns the keys the running image trusts.
func trusted(b node.Boot) ([]*ecdsa.PublicKey, error) {
	var keys []*ecdsa.PublicKey
	for _, text := range b.Keys {
		k, err := image.ParsePublicKey([]byte(text))
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// Checks implements updater.Node.
func (m host) Checks(ctx context.Context) []node.Check { return checks.Run(ctx, m.cfg) }

// Cluster implements updater.Node.
func (m host) Cluster(ctx context.Context) (*skew.Cluster, error) {
	p, err := runfiles.Prepared()
	if err != nil {
		return nil, err
	}
	return versions(ctx, m.cfg.K3s.Role, p.Hostname, apiserver.KubeletConfig, apiserver.AdminConfig)
}

// Restart implements updater.Node.
func (m host) Restart(argument string) error {
	m.Alive() // a shutdown takes its time, and in a trial no more than is given to a sign of life
	return shutdown.Reboot(argument)
}

// LastLog implements updater.Node.
func (m host) LastLog() string { return lastLines() }

// Report implements updater.Node.
func (m host) Report(text string) error {
	old, err := m.card.ReadControl(slots.ReportFile)
	if err == nil {
		err = m.card.WriteControl(slots.ReportFile, slots.UpgradeReport(text, string(old)))
	}
	if mounts.Mounted(node.StateDir) {
		err = errors.Join(err, runfiles.Replace(node.StateReportFile, []byte(text), 0o644))
	}
	return err
}

// BeforeArming implements updater.Node.
func (m host) BeforeArming(u slots.Update) error { return k3s.SaveDatastore(m.cfg, m.boot, u) }

// Alive implements updater.Node.
func (m host) Alive() { feeder.Alive(m.boot) }

// Committed implements updater.Node.
func (m host) Committed() error {
	feeder.TrialEnded(m.boot)
	return nowCommitted(m.boot)
}

// nowCommitted has the rest of the node know that this boot is no trial any
// more.
func nowCommitted(b node.Boot) error {
	b.Kind = slots.Committed
	text, err := b.Encode()
	if err != nil {
		return err
	}
	if err := runfiles.Replace(node.BootFile, text, 0o644); err != nil {
		return err
	}
	p, err := runfiles.Prepared()
	if err != nil {
		return err
	}
	return motd.Write(b, p)
}
