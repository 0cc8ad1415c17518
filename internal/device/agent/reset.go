package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/device/agent/card"
	"github.com/pikelet-os/pikelet/internal/device/agent/prepare"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/agent/shutdown"
	"github.com/pikelet-os/pikelet/internal/device/agent/volume"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

func newReset() *cobra.Command {
	var withVolume, yes bool
	c := newVerb("reset [flags]", "forget config and identity, and start over", func(c *cobra.Command) error {
		return reset(c.OutOrStdout(), withVolume, yes)
	})
	c.Flags().BoolVar(&withVolume, "volume", false, "forget the cluster's data too")
	c.Flags().BoolVar(&yes, "yes", false, "do it; without this flag reset only says what would be lost")
	return c
}

// reset forgets config and identity, withVolume the cluster's data too, and
// reboots. Without yes it fails with what would be lost.
func reset(out io.Writer, withVolume, yes bool) error {
	b, err := runfiles.Boot()
	if err != nil {
		return err
	}
	p, err := runfiles.Prepared()
	if err != nil {
		return err
	}
	cfg, err := runfiles.Config()
	if err != nil {
		return err
	}
	onState := cfg.Volume.Place() == nodeconfig.OnState
	if p.State.Memory != "" && !withVolume && onState {
		return hint.With(errors.New("the state partition cannot be read, so nothing on it can be kept"),
			"pikeletd reset --volume makes it anew, and what k3s and pods kept there is lost")
	}
	what := "the node config, the seed and the clock"
	if withVolume {
		what += fmt.Sprintf(", and the volume on %s with all that k3s and pods kept", cfg.Volume.Place())
	}
	if !yes {
		return hint.With(fmt.Errorf("this forgets %s, and reboots. The node comes up as its image makes it: "+
			"who may log in is what the image says", what), "Say --yes to do it")
	}
	fmt.Fprintf(out, "forgetting %s\n", what)
	if withVolume && !onState && cfg.Volume.Place() != nodeconfig.OnMemory {
		if err := volume.Wipe(cfg); err != nil {
			return fmt.Errorf("wiping the volume: %w", err)
		}
	}
	if withVolume && onState || p.State.Memory != "" {
		c, err := card.Open(b.Disk)
		if err != nil {
			return err
		}
		defer c.Close()
		// The next boot makes what is still being made.
		if err := prepare.NoteState(c, slots.StateMaking); err != nil {
			return err
		}
	} else {
		for _, name := range []string{"node", "paths"} {
			if err := os.RemoveAll(filepath.Join(node.StateDir, name)); err != nil && name == "node" {
				return err
			}
		}
	}
	if err := os.WriteFile(prepare.ForgottenFile, nil, 0o600); err != nil {
		return err
	}
	return shutdown.Reboot("")
}
