package agent

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// gather asks everything status says.
func gather() (node.Status, error) {
	var s node.Status
	var err error
	if s.Boot, err = readBoot(); err != nil {
		return s, err
	}
	if s.Node, err = readPrepared(); err != nil {
		return s, err
	}
	s.Volume, _ = readVolume()
	s.State, s.Space = space(node.StateDir), space(node.VolumeDir)
	cfg, err := readConfig()
	if err != nil {
		cfg = &nodeconfig.Config{}
	}
	s.Checks = runChecks(cfg)
	s.K3s = k3sStatus(cfg)
	s.Sessions = sessions()
	s.Firmware = firmware()
	s.Update = lastUpdate(s.Boot.Disk)
	s.Datastore = readTrimmed(datastoreFile)
	s.CardWritten = written(s.Boot.Disk)
	s.Synchronised = synchronised()
	return s, nil
}

func space(dir string) node.Space {
	var st unix.Statfs_t
	if !mounted(dir) || unix.Statfs(dir, &st) != nil {
		return node.Space{}
	}
	return node.Space{Size: int64(st.Blocks) * st.Bsize, Free: int64(st.Bavail) * st.Bsize}
}

// written returns how many bytes the kernel has written to a disk: the
// seventh number of its statistics counts sectors of 512 bytes.
func written(dev string) int64 {
	f := strings.Fields(readTrimmed("/sys/block/" + filepath.Base(dev) + "/stat"))
	if len(f) < 7 {
		return 0
	}
	n, _ := strconv.ParseInt(f[6], 10, 64)
	return n * disk.SectorSize
}

// kubeletHealth is where the kubelet says how it is (docs/platform.md 7.9).
const kubeletHealth = "http://127.0.0.1:10248/healthz"

func k3sStatus(cfg *nodeconfig.Config) node.K3sStatus {
	s := node.K3sStatus{Role: cfg.K3s.Role}
	if s.Role == "" {
		return s
	}
	client := &http.Client{Timeout: 3 * time.Second}
	resp, err := client.Get(kubeletHealth)
	if err != nil {
		s.Says = "the kubelet does not answer: " + err.Error()
		return s
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	s.Running, s.Says = resp.StatusCode == http.StatusOK, strings.TrimSpace(string(b))
	return s
}

func sessions() []node.Session {
	var list []node.Session
	all, _ := filepath.Glob("/sys/class/iscsi_session/session*")
	for _, dir := range all {
		s := node.Session{Target: readTrimmed(dir + "/targetname"), State: readTrimmed(dir + "/state")}
		disks, _ := filepath.Glob(dir + "/device/target*/*/block/*")
		for _, d := range disks {
			s.Disks = append(s.Disks, "/dev/"+filepath.Base(d))
		}
		list = append(list, s)
	}
	return list
}

// lastUpdate reads what the card's record says of an upgrade.
func lastUpdate(disk string) *slots.Update {
	if disk == "" {
		return nil
	}
	f, err := os.Open(disk)
	if err != nil {
		return nil
	}
	defer f.Close()
	return slots.ReadCard(f).Update
}

// firmware reads what the bootloader left in the device tree
// (docs/platform.md 2.3).
func firmware() node.Firmware {
	f := node.Firmware{Model: strings.TrimRight(readTrimmed("/proc/device-tree/model"), "\x00")}
	if b, err := os.ReadFile("/proc/device-tree/chosen/bootloader/build-timestamp"); err == nil && len(b) == 4 {
		f.Bootloader = int64(binary.BigEndian.Uint32(b))
	}
	return f
}

func status(out io.Writer, asJSON bool) error {
	s, err := gather()
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
	_, err = io.WriteString(out, describe(s.Boot, s.Node)+describeMore(s))
	return err
}

// describe says how this boot went; it is what a login shows too.
func describe(b node.Boot, p node.Prepared) string {
	var s strings.Builder
	fmt.Fprintf(&s, "node    %s, config from %s\n", p.Hostname, age(p.Config))
	fmt.Fprintf(&s, "image   %s %s (build %s)\n", b.Stream, b.Release, b.BuildID)
	if b.Slot == slots.Net {
		fmt.Fprintf(&s, "slot    none: started without a card, by the boot server %s\n", b.Server)
	} else {
		fmt.Fprintf(&s, "slot    %s, %s, on %s\n", b.Slot, b.Kind, b.Disk)
	}
	fmt.Fprintf(&s, "root    verified by dm-verity, root hash %s\n", b.Root)
	fmt.Fprintf(&s, "signed  %s\n", b.Signed)
	if b.Watchdog != 0 {
		s.WriteString("guarded by the hardware watchdog\n")
	}
	if b.Failed != "" {
		head := "failed "
		if b.Kind == slots.Rescue {
			head = "RESCUE "
		}
		fmt.Fprintf(&s, "%s %s\n", head, indent(b.Failed))
	}
	for _, text := range p.Problems {
		fmt.Fprintf(&s, "PROBLEM %s\n", indent(text))
	}
	return s.String()
}

func indent(text string) string { return strings.ReplaceAll(text, "\n", "\n        ") }

// age says where a config came from and when.
func age(c node.ConfigStatus) string {
	if c.Taken == 0 {
		return c.Source
	}
	return fmt.Sprintf("%s, taken %s", c.Source, time.Unix(c.Taken, 0).UTC().Format("2006-01-02 15:04 UTC"))
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
	switch problem := volumeOf(s.Checks); {
	case s.Volume.Mounted && s.Volume.Another != "":
		fmt.Fprintf(&b, "volume  ANOTHER, %s, %s: %s\n", volume, room(s.Space), indent(problem))
	case s.Volume.Mounted && problem != "":
		fmt.Fprintf(&b, "volume  FAILED, %s: %s\n", volume, indent(problem))
	case s.Volume.Mounted:
		fmt.Fprintf(&b, "volume  %s, %s\n", volume, room(s.Space))
	default:
		fmt.Fprintf(&b, "volume  MISSING, %s: %s\n", volume, indent(s.Volume.Waiting))
	}
	for _, i := range s.Sessions {
		fmt.Fprintf(&b, "iscsi   %s %s %s\n", i.Target, i.State, strings.Join(i.Disks, " "))
	}
	for _, text := range s.Volume.Sessions {
		fmt.Fprintf(&b, "iscsi   %s\n", indent(text))
	}
	switch {
	case s.K3s.Role == "":
		b.WriteString("k3s     none: the node config names no role\n")
	default:
		fmt.Fprintf(&b, "k3s     %s, %s\n", s.K3s.Role, s.K3s.Says)
	}
	fmt.Fprintf(&b, "ssh     host key %s\niqn     %s\n", s.Node.Fingerprint, s.Node.IQN)
	if u := s.Update; u != nil {
		fmt.Fprintf(&b, "upgrade to %s in slot %s: %s", u.Release, u.Slot, u.Step)
		if u.Reason != "" {
			fmt.Fprintf(&b, ", %s", indent(u.Reason))
		}
		b.WriteString("\n")
	}
	if s.Datastore != "" {
		fmt.Fprintf(&b, "DATA    %s\n", indent(s.Datastore))
	}
	if s.Firmware.Bootloader != 0 {
		fmt.Fprintf(&b, "eeprom  of %s\n", time.Unix(s.Firmware.Bootloader, 0).UTC().Format("2006-01-02"))
	}
	fmt.Fprintf(&b, "card    %d kB written since it was started\n", s.CardWritten/1000)
	for _, c := range s.Checks {
		if !c.OK {
			fmt.Fprintf(&b, "CHECK   %s: %s\n", c.Name, indent(c.Says))
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
