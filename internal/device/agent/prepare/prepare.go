// Package prepare is pikeletd prepare: it makes this node out of the image that
// all nodes share, before OpenRC starts anything.
package prepare

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/advice"
	"github.com/pikelet-os/pikelet/internal/device/agent/card"
	"github.com/pikelet-os/pikelet/internal/device/agent/machine"
	"github.com/pikelet-os/pikelet/internal/device/agent/motd"
	"github.com/pikelet-os/pikelet/internal/device/agent/mounts"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/agent/volume"
	"github.com/pikelet-os/pikelet/internal/device/early"
	"github.com/pikelet-os/pikelet/internal/shared/depends"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Run makes this machine out of the image, the same one on every boot. It
// runs as a child of /init, before OpenRC reads anything; /etc and /var are
// memory over the root. Each part is tried even when one before it failed:
// whatever is wrong with card, state or config, the node comes up and says so.
func Run(out io.Writer, log *slog.Logger) error {
	start := time.Now()
	if _, err := os.Stat(node.PreparedFile); err == nil {
		return hint.With(errors.New("this boot was prepared already"), "reboot to have it done again")
	}
	b, err := runfiles.Boot()
	if err != nil {
		return err
	}
	p := &node.Prepared{Serial: machine.Serial()}
	problem := func(err error) {
		if err != nil {
			p.Problems = append(p.Problems, advice.Text(err))
		}
	}
	var c *card.Card
	if b.Slot == slots.Net {
		p.State, err = memoryState("this node has no card")
	} else {
		c, err = card.Open(b.Disk)
		problem(err)
		p.State, err = mountState(c, log)
	}
	if c != nil {
		defer c.Close()
	}
	problem(err)
	if p.State.Memory != "" && b.Slot != slots.Net {
		problem(fmt.Errorf("state is in memory, and forgotten at the next boot: %s", p.State.Memory))
	}
	problem(setClock())
	cfg, from := sources(c).take(machine.This(), p.State)
	p.Config = from
	if from.Refused != "" {
		problem(fmt.Errorf("a config was not taken: %s", from.Refused))
	}
	id, err := takeIdentity(b, cfg, p)
	problem(err)
	if cfg.Logs == nodeconfig.OnState {
		problem(mounts.Bind(node.Writable{Path: "/var/log", Place: node.State, Mode: 0o755}))
	}
	problem(mounts.BindWritable(node.Memory))
	problem(mounts.BindWritable(node.State))
	problem(refill(b, cfg, id, p))
	problem(volume.Prepare(cfg))
	problem(leaveDependencies())
	problem(startEarly())
	p.Seconds = time.Since(start).Seconds()
	problem(motd.Write(b, *p))
	if c != nil {
		problem(writeReport(c, b, *p))
	}
	text, err := p.Encode()
	if err != nil {
		return err
	}
	for _, s := range p.Problems {
		fmt.Fprintf(out, "pikelet: %s\n", strings.ReplaceAll(s, "\n", "\npikelet:   "))
	}
	if p.State.Made {
		fmt.Fprintf(out, "pikelet: this is a first boot: state was made on %s\n", p.State.Device)
	}
	fmt.Fprintf(out, "pikelet: this is %s, config from %s, SSH host key %s\n", p.Hostname, p.Config.Source, p.Fingerprint)
	return os.WriteFile(node.PreparedFile, text, 0o600)
}

// startEarly does what simple services do, and says where it is looked up
// what was done, and why the others were left to OpenRC.
func startEarly() error {
	report := early.New(os.DirFS("/")).Run(early.Linux{})
	return os.WriteFile(node.EarlyFile, []byte(report.String()), 0o644)
}

// leaveDependencies has OpenRC take what its services depend on from the build, where
// nothing that decides it was changed: by the config, or by what is in memory over /etc.
func leaveDependencies() error {
	b, err := os.ReadFile(depends.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	r, err := depends.Decode(b)
	if err != nil {
		return err
	}
	return os.WriteFile(depends.ScriptFile, []byte(r.On(os.DirFS("/")).Script()), 0o644)
}
