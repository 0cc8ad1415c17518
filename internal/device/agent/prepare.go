package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/early"
	"github.com/pikelet-os/pikelet/internal/device/etc"
	"github.com/pikelet-os/pikelet/internal/device/updater"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Prepare makes this machine out of the image, the same one on every boot. It
// runs as a child of /init, before OpenRC reads anything; /etc and /var are
// memory over the root. Each part is tried even when one before it failed:
// whatever is wrong with card, state or config, the node comes up and says so.
func Prepare(out io.Writer) error {
	start := time.Now()
	if _, err := os.Stat(node.ReportFile); err == nil {
		return errors.New("this boot was prepared already; reboot to have it done again")
	}
	b, err := readBoot()
	if err != nil {
		return err
	}
	p := &node.Prepared{Serial: serial()}
	problem := func(err error) {
		if err != nil {
			p.Problems = append(p.Problems, err.Error())
		}
	}
	var c *card
	if b.Slot == slots.Net {
		p.State, err = memoryState("this node has no card")
	} else {
		c, err = openCard(b.Disk)
		problem(err)
		p.State, err = mountState(c)
	}
	if c != nil {
		defer c.f.Close()
	}
	problem(err)
	if p.State.Memory != "" && b.Slot != slots.Net {
		problem(fmt.Errorf("state is in memory, and forgotten at the next boot: %s", p.State.Memory))
	}
	problem(setClock())
	cfg, from := nodeConfigs(c).take(machine(), p.State)
	p.Config = from
	if from.Refused != "" {
		problem(fmt.Errorf("a config was not taken: %s", from.Refused))
	}
	id, err := takeIdentity(b, cfg, p)
	problem(err)
	if cfg.Logs == nodeconfig.OnState {
		problem(bindOne(node.Writable{Path: "/var/log", Place: node.State, Mode: 0o755}))
	}
	problem(bindWritable(node.Memory))
	problem(bindWritable(node.State))
	problem(refill(b, cfg, id, p))
	problem(prepareVolume(cfg))
	problem(startEarly())
	p.Seconds = time.Since(start).Seconds()
	problem(write("/etc/motd", motd(b, *p, isOpen())))
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
	return os.WriteFile(node.ReportFile, text, 0o600)
}

// takeIdentity derives who this node is, and notes it.
func takeIdentity(b node.Boot, cfg *nodeconfig.Config, p *node.Prepared) (node.Identity, error) {
	p.Hostname = cfg.Hostname
	if p.Hostname == "" {
		p.Hostname = node.DefaultName(b.Stream, p.Serial)
	}
	seed, from, seedErr := takeSeed(cfg, p.State)
	id, err := node.NewIdentity(p.Hostname, seed)
	if err != nil {
		return id, err
	}
	p.Seed, p.HostKey, p.Fingerprint, p.IQN = from, id.PublicKey(), id.Fingerprint(), id.IQN
	if cfg.ISCSI.Initiator != "" {
		p.IQN = cfg.ISCSI.Initiator
	}
	return id, errors.Join(seedErr, unix.Sethostname([]byte(p.Hostname)))
}

// refill writes /etc anew.
func refill(b node.Boot, cfg *nodeconfig.Config, id node.Identity, p *node.Prepared) error {
	consoles, err := activeConsoles()
	if err != nil {
		return err
	}
	files, problems, err := bootFiles(etc.Input{
		Config: cfg, Identity: id, Root: os.DirFS("/"), Feeder: b.Watchdog, Consoles: consoles, OpenRoot: isOpen(),
	})
	p.Problems = append(p.Problems, problems...)
	errs := []error{err}
	for _, f := range files {
		errs = append(errs, put(f))
	}
	return errors.Join(errs...)
}

// bootFiles returns what is written before anything starts: what the config
// makes of the root; the config itself, and the files that wait for the volume,
// both with secrets and for root only.
func bootFiles(in etc.Input) (files []etc.File, problems []string, err error) {
	all, problems := etc.Files(in)
	files, later := waitForVolume(all)
	effective, err := in.Config.Encode()
	if err == nil {
		files = append(files, etc.File{Path: node.EffectiveFile, Content: string(effective), Mode: 0o600})
	}
	waiting, jsonErr := json.Marshal(later)
	if jsonErr == nil {
		files = append(files, etc.File{Path: waitingFiles, Content: string(waiting), Mode: 0o600})
	}
	return files, problems, errors.Join(err, jsonErr)
}

// startEarly does what simple services do, and says where it is looked up
// what was done, and why the others were left to OpenRC.
func startEarly() error {
	report := early.New(os.DirFS("/")).Run(early.Linux{})
	return os.WriteFile(node.EarlyFile, []byte(report.String()), 0o644)
}

// put writes one file, its folders belonging to root where they are missing.
// One that is so already is not touched: what is newer than OpenRC's cache of
// dependencies has OpenRC make that again.
func put(f etc.File) error {
	if f.Mode == 0 {
		f.Mode = 0o644
	}
	if same(f) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return err
	}
	if f.Link != "" {
		os.Remove(f.Path)
		return os.Symlink(f.Link, f.Path)
	}
	if f.Mode.IsDir() {
		if err := os.MkdirAll(f.Path, f.Mode.Perm()); err != nil {
			return err
		}
	} else {
		// Not through a link of the image's, which may lead to /run; and with
		// its mode from the first byte on.
		os.Remove(f.Path)
		if err := os.WriteFile(f.Path, []byte(f.Content), f.Mode.Perm()); err != nil {
			return err
		}
	}
	if err := os.Chmod(f.Path, f.Mode.Perm()); err != nil {
		return err
	}
	return os.Lchown(f.Path, f.UID, f.UID)
}

// same reports whether a file is there already, with contents, mode and owner.
func same(f etc.File) bool {
	i, err := os.Lstat(f.Path)
	if err != nil {
		return false
	}
	if f.Link != "" {
		to, err := os.Readlink(f.Path)
		return err == nil && to == f.Link
	}
	st, ok := i.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) != f.UID || int(st.Gid) != f.UID || i.Mode() != f.Mode&(fs.ModeDir|fs.ModePerm) {
		return false
	}
	if f.Mode.IsDir() {
		return true
	}
	b, err := os.ReadFile(f.Path)
	return err == nil && string(b) == f.Content
}

// activeConsoles returns the consoles the kernel has, such as ttyAMA0.
func activeConsoles() ([]string, error) {
	b, err := os.ReadFile("/sys/class/tty/console/active")
	if err != nil {
		return nil, err
	}
	names := strings.Fields(string(b))
	sort.Strings(names)
	return names, nil
}

// setClock puts the clock to the last time this node knew, where that is
// later than what /init made of the build's: no Pi before the 5 keeps time
// without power.
func setClock() error {
	b, err := os.ReadFile(node.ClockFile)
	if err != nil {
		return nil // a first boot
	}
	t, err := time.Parse(time.RFC3339, strings.TrimSpace(string(b)))
	if err != nil || !time.Now().Before(t) {
		return nil
	}
	tv := unix.NsecToTimeval(t.UnixNano())
	return unix.Settimeofday(&tv)
}

// saveClock writes down the time, for the next boot.
func saveClock() error {
	if _, err := os.Stat(forgottenFile); err == nil {
		return nil // nothing is to be left
	}
	return keep(node.ClockFile, []byte(time.Now().UTC().Format(time.RFC3339)+"\n"))
}

// failure heads the part of report.txt that says why an earlier boot failed;
// it stays there until another one does.
const failure = "Pikelet could not start.\n"

// earlier returns the part of report.txt that a boot leaves as it is: why an
// earlier one failed, and what became of the last upgrade.
func earlier(report string) string {
	at := len(report)
	for _, heading := range []string{failure, updater.Heading} {
		if i := strings.Index(report, heading); i >= 0 {
			at = min(at, i)
		}
	}
	if at == len(report) {
		return ""
	}
	return "\nWhat follows is of an earlier boot.\n\n" + strings.TrimRight(report[at:], "\n\x00") + "\n"
}

// writeReport puts onto the control partition, which any computer reads, how
// this boot went. It says nothing that changes from boot to boot, so that a
// card is written only when there is something new.
func writeReport(c *card, b node.Boot, p node.Prepared) error {
	var s strings.Builder
	fmt.Fprintf(&s, "%s runs %s %s (build %s) from slot %s.\n", p.Hostname, b.Stream, b.Release, b.BuildID, b.Slot)
	fmt.Fprintf(&s, "Its config came from %s.\nIts SSH host key is %s (%s)\n", strings.Replace(p.Config.Source, node.FromCard, "this partition", 1), p.HostKey, p.Fingerprint)
	for _, text := range p.Problems {
		fmt.Fprintf(&s, "\nPROBLEM: %s\n", text)
	}
	if old, err := c.readControl(slots.ReportFile); err == nil {
		s.WriteString(earlier(string(old)))
	}
	return c.writeControl(slots.ReportFile, s.String())
}
