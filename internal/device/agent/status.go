package agent

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/device/agent/apiserver"
	"github.com/pikelet-os/pikelet/internal/device/agent/card"
	"github.com/pikelet-os/pikelet/internal/device/agent/checks"
	"github.com/pikelet-os/pikelet/internal/device/agent/clock"
	"github.com/pikelet-os/pikelet/internal/device/agent/iscsi"
	"github.com/pikelet-os/pikelet/internal/device/agent/k3s"
	"github.com/pikelet-os/pikelet/internal/device/agent/machine"
	"github.com/pikelet-os/pikelet/internal/device/agent/motd"
	"github.com/pikelet-os/pikelet/internal/device/agent/mounts"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/agent/sysfs"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// gather collects what status prints.
func gather(ctx context.Context) (node.Status, error) {
	var s node.Status
	var err error
	if s.Boot, err = runfiles.Boot(); err != nil {
		return s, err
	}
	if s.Node, err = runfiles.Prepared(); err != nil {
		return s, err
	}
	s.Volume, _ = runfiles.Volume()
	s.State, s.Space = space(node.StateDir), space(node.VolumeDir)
	cfg, err := runfiles.Config()
	if err != nil {
		cfg = &nodeconfig.Config{}
	}
	done := make(chan struct{})
	go func() { // beside the checks, since both wait for an API server that is away
		defer close(done)
		if cfg.K3s.Role != "" {
			s.Cluster = cluster(ctx, apiserver.KubeletConfig, s.Node.Hostname, sysfs.Read("/proc/sys/kernel/random/boot_id"))
		}
	}()
	s.Checks = checks.Run(ctx, cfg)
	s.K3s = k3s.Status(cfg)
	s.Sessions = iscsi.Sessions()
	s.Firmware = machine.Firmware()
	s.Update = card.LastUpdate(s.Boot.Disk)
	s.Datastore = cmp.Or(sysfs.Read(k3s.WaitingFile), sysfs.Read(k3s.DatastoreFile))
	s.CardWritten = written(s.Boot.Disk)
	s.Synchronised = clock.Synchronised()
	<-done
	return s, nil
}

func space(dir string) node.Space {
	var st unix.Statfs_t
	if !mounts.Mounted(dir) || unix.Statfs(dir, &st) != nil {
		return node.Space{}
	}
	return node.Space{Size: int64(st.Blocks) * st.Bsize, Free: int64(st.Bavail) * st.Bsize}
}

// written returns how many bytes the kernel has written to a disk: the
// seventh number of its statistics counts sectors of 512 bytes.
func written(dev string) int64 {
	f := strings.Fields(sysfs.Read("/sys/block/" + filepath.Base(dev) + "/stat"))
	if len(f) < 7 {
		return 0
	}
	n, _ := strconv.ParseInt(f[6], 10, 64)
	return n * disk.SectorSize
}

func newStatus() *cobra.Command {
	var asJSON bool
	c := newVerb("status [--json]", "how this node came up, and how it is", func(c *cobra.Command) error {
		return status(c.Context(), c.OutOrStdout(), asJSON)
	})
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// status prints how the node is.
func status(ctx context.Context, out io.Writer, asJSON bool) error {
	s, err := gather(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		b, err := s.Encode()
		if err != nil {
			return err
		}
		_, err = out.Write(append(b, '\n'))
		return err
	}
	_, err = io.WriteString(out, motd.Describe(s.Boot, s.Node)+describeMore(s))
	return err
}

func describeMore(s node.Status) string {
	var b strings.Builder
	state := "on " + s.Node.State.Device
	if s.Node.State.Memory != "" {
		state = "IN MEMORY, forgotten at the next boot"
	}
	fmt.Fprintf(&b, "state   %s, %s\n", state, room(s.State))
	volume := "on " + s.Volume.On
	if s.Volume.Device != "" {
		volume += ", " + s.Volume.Device
	}
	if s.Volume.Encrypted {
		volume += ", encrypted"
	}
	switch problem := volumeOf(s.Checks); {
	case s.Volume.Mounted && s.Volume.Another != "":
		fmt.Fprintf(&b, "volume  ANOTHER, %s, %s: %s\n", volume, room(s.Space), motd.Indent(problem))
	case s.Volume.Mounted && problem != "":
		fmt.Fprintf(&b, "volume  FAILED, %s: %s\n", volume, motd.Indent(problem))
	case s.Volume.Mounted:
		fmt.Fprintf(&b, "volume  %s, %s\n", volume, room(s.Space))
	default:
		fmt.Fprintf(&b, "volume  MISSING, %s: %s\n", volume, motd.Indent(s.Volume.Waiting))
	}
	for _, i := range s.Sessions {
		fmt.Fprintf(&b, "iscsi   %s %s %s\n", i.Target, i.State, strings.Join(i.Disks, " "))
	}
	for _, text := range s.Volume.Sessions {
		fmt.Fprintf(&b, "iscsi   %s\n", motd.Indent(text))
	}
	switch {
	case s.K3s.Role == "":
		b.WriteString("k3s     none: the node config names no role\n")
	default:
		fmt.Fprintf(&b, "k3s     %s, %s\n", s.K3s.Role, s.K3s.Says)
	}
	if s.Cluster != nil {
		b.WriteString(describeCluster(s.Cluster))
	}
	fmt.Fprintf(&b, "ssh     host key %s\niqn     %s\n", s.Node.Fingerprint, s.Node.IQN)
	if u := s.Update; u != nil {
		fmt.Fprintf(&b, "upgrade to %s in slot %s: %s", u.Release, u.Slot, u.Step)
		if u.Reason != "" {
			fmt.Fprintf(&b, ", %s", motd.Indent(u.Reason))
		}
		b.WriteString("\n")
	}
	if s.Datastore != "" {
		fmt.Fprintf(&b, "DATA    %s\n", motd.Indent(s.Datastore))
	}
	if s.Firmware.Bootloader != 0 {
		fmt.Fprintf(&b, "eeprom  of %s\n", time.Unix(s.Firmware.Bootloader, 0).UTC().Format("2006-01-02"))
	}
	fmt.Fprintf(&b, "card    %d kB written since it was started\n", s.CardWritten/1000)
	for _, c := range s.Checks {
		if !c.OK || c.Warning {
			fmt.Fprintf(&b, "CHECK   %s: %s\n", c.Name, motd.Indent(c.Says))
		}
	}
	return b.String()
}

// volumeOf returns what the checks have found wrong with the volume.
func volumeOf(list []node.Check) string {
	for _, c := range list {
		if c.Name == "volume" && !c.OK {
			return c.Says
		}
	}
	return ""
}

func room(s node.Space) string {
	if s.Size == 0 {
		return "not mounted"
	}
	return fmt.Sprintf("%d of %d MB free", s.Free/1e6, s.Size/1e6)
}
