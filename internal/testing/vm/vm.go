// Package vm is a virtual Pi: a model of the firmware that reads the image's
// own FATs, and QEMU for everything behind it. When the guest reboots, the
// model starts over, with what the guest requested of the firmware.
package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Options say which virtual Pi runs what.
type Options struct {
	Image    string // path of a disk image; "" with Net
	Snapshot bool   // leave the file untouched
	Machine  string // virt or raspi3b; "" picks by the image's kernel
	Second   string // path of a second disk; virt only
	Card     bool   // on virt: an SD card behind sdhci-pci, as on a Pi, not a virtio disk
	Request  Request
	NoWalk   bool   // an EEPROM from before PARTITION_WALK
	Serial   string // of the board; "" for a fixed one
	// Net is the firmware of a machine without a card, and Tap the device by
	// which QEMU's is in the same network, in the namespace Namespace; virt
	// only. Tap without Net has a machine with a card be in that network.
	Net       *NetROM
	Tap       string
	Namespace string
	// Forward makes TCP ports of the guest reachable on loopback: from the
	// port here to the guest's.
	Forward map[int]int
	// Writes names files that every write and flush to the card is recorded in,
	// one for each boot: Writes.1, Writes.2, as QEMU's blklogwrites keeps them;
	// "" for none. virt only.
	Writes string
	// KASLR has the firmware pass a seed for it, as a Pi's does: the kernel
	// then takes longer for everything.
	KASLR bool
	// Memory is the guest's, in MiB; 0 for what the machine usually has.
	Memory int
	// Cores is how many processors the guest has; 0 for what the machine usually
	// has. virt only: others' number is fixed.
	Cores int

	// Clock is what the guest's clock shows when it starts, such as
	// 2001-01-01T00:00:00; "" for the time. virt only: a Pi has none.
	Clock string
	// Resume goes on where a machine was saved, see Save, instead of starting:
	// Image is then the card that was saved, and Net must be nil.
	Resume *Saved
	// Prepare is given the card before the first boot, the copy of it with
	// Snapshot; may be nil.
	Prepare func(card string) error

	Console io.Writer    // sees everything the guest prints; may be nil
	Log     *slog.Logger // what the firmware does; may be nil
}

const defaultSerial = "1000000052617370"

// qemu is the program; Debian's package qemu-system-arm has it.
const qemu = "qemu-system-aarch64"

// Machine is a running virtual Pi.
type Machine struct {
	o     Options
	image string
	dir   string

	mu       sync.Mutex
	changed  *sync.Cond
	output   bytes.Buffer
	seen     int // how much of output Expect has passed
	input    io.Writer
	boots    int
	request  Request // of the boot that runs
	control  *qmp    // of the QEMU that runs
	pid      int     // of the QEMU that runs; 0 for none
	writes   int64   // to the card, of those that ran before
	ofThis   int64   // and of the one that runs, as far as was asked
	progress progress
	ended    bool
	err      error

	stop context.CancelFunc
	done chan struct{}
}

// Start starts a virtual Pi, which runs until the guest powers off, an error,
// the end of ctx, or Close.
func Start(ctx context.Context, o Options) (*Machine, error) {
	if _, err := exec.LookPath(qemu); err != nil {
		return nil, hint.With(fmt.Errorf("%s is not installed", qemu), "apt-get install qemu-system-arm")
	}
	if o.Serial == "" {
		o.Serial = defaultSerial
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := os.MkdirTemp("", "pikelet-vm-")
	if err != nil {
		return nil, err
	}
	m := &Machine{o: o, image: o.Image, dir: dir, done: make(chan struct{})}
	m.changed = sync.NewCond(&m.mu)
	if o.Resume != nil {
		m.output.WriteString(o.Resume.output)
	}
	if o.Snapshot {
		m.image = filepath.Join(dir, "disk.img")
		if err := CopySparse(o.Image, m.image); err != nil {
			os.RemoveAll(dir)
			return nil, err
		}
	}
	if o.Prepare != nil {
		if err := o.Prepare(m.image); err != nil {
			os.RemoveAll(dir)
			return nil, err
		}
	}
	ctx, m.stop = context.WithCancel(ctx)
	watched := make(chan struct{})
	go m.watch(watched)
	go func() {
		err := m.loop(ctx)
		close(watched)
		os.RemoveAll(dir)
		m.mu.Lock()
		m.ended, m.err = true, err
		m.changed.Broadcast()
		m.mu.Unlock()
		close(m.done)
	}()
	if o.Resume != nil {
		if err := m.resumed(); err != nil {
			m.Close()
			return nil, err
		}
	}
	return m, nil
}

// Wait waits for the machine's end. Its error is nil after a poweroff.
func (m *Machine) Wait() error {
	<-m.done
	return m.err
}

// Close ends the machine as pulling the plug would.
func (m *Machine) Close() {
	m.stop()
	<-m.done
}

// loop is the firmware and the machine in turn.
func (m *Machine) loop(ctx context.Context) error {
	req := m.o.Request
	if m.o.Resume != nil {
		req = m.o.Resume.request
	}
	for {
		m.mu.Lock()
		m.request = req
		m.mu.Unlock()
		next, again, err := m.once(ctx, req)
		if err != nil || !again {
			return err
		}
		req = next
		req.Reset = true
	}
}

// once boots the card one time and reports whether the guest rebooted, and with
// what request to the firmware.
func (m *Machine) once(ctx context.Context, req Request) (next Request, again bool, err error) {
	mach, start, err := m.firmware(ctx, req)
	if err != nil {
		return next, false, fmt.Errorf("the firmware found nothing to boot: %w", err)
	}
	m.o.Log.Info("firmware starts the kernel", "machine", mach.name, "partition", start.Partition, "tryboot", start.Tryboot)
	args, err := m.arguments(ctx, mach, start)
	if err != nil {
		return next, false, err
	}
	m.mu.Lock()
	from := m.output.Len()
	if m.o.Resume != nil && m.boots == 0 {
		args = append(args, "-incoming", "exec:cat "+quoted(m.o.Resume.file()))
		from, start.Watchdog = 0, 0
	}
	m.boots++
	m.mu.Unlock()
	reason, err := m.run(ctx, args, start.Watchdog, from)
	if err != nil {
		return next, false, err
	}
	m.mu.Lock()
	console := string(m.output.Bytes()[from:])
	m.mu.Unlock()
	return parseRestart(console), reason == "guest-reset" || reason == "host-qmp-system-reset", nil
}

// restarting is what every kernel prints before it restarts with an argument,
// quiet or not.
var restarting = regexp.MustCompile(`reboot: Restarting system with command '([^']*)'`)

// parseRestart returns what the kernel told the firmware when it restarted:
// the number in front is the partition, the word tryboot sets the flag
// (docs/platform.md 2.2).
func parseRestart(console string) Request {
	all := restarting.FindAllStringSubmatch(console, -1)
	if len(all) == 0 {
		return Request{}
	}
	var r Request
	for i, w := range strings.Fields(all[len(all)-1][1]) {
		if i == 0 {
			fmt.Sscan(w, &r.Partition)
		}
		r.Tryboot = r.Tryboot || w == "tryboot"
	}
	return r
}

// firmware runs the model, first to pick the machine, then as that machine's.
func (m *Machine) firmware(ctx context.Context, req Request) (machine, *Handover, error) {
	mach := virt
	if m.o.Net != nil {
		start, err := m.o.Net.Boot(ctx)
		if err == nil {
			start.Network, start.Reset = true, req.Reset
		}
		return mach, start, err
	}
	f, err := os.Open(m.image)
	if err != nil {
		return machine{}, nil, err
	}
	defer f.Close()
	if m.o.Machine != "" {
		if mach, err = machineByName(m.o.Machine); err != nil {
			return mach, nil, err
		}
	}
	mach.firmware.Walk = mach.firmware.Walk && !m.o.NoWalk
	start, err := mach.firmware.Boot(f, req)
	if err != nil || m.o.Machine != "" {
		return mach, start, err
	}
	chosen, why := pick(start)
	m.o.Log.Info("chose a machine", "machine", chosen.name, "reason", why)
	if chosen.name != mach.name {
		mach = chosen
		start, err = mach.firmware.Boot(f, req)
	}
	return mach, start, err
}

// run runs QEMU once and returns why it ended, as QMP says it: guest-reset,
// guest-shutdown, host-qmp-quit.
func (m *Machine) run(ctx context.Context, args []string, watchdog, from int) (string, error) {
	control, err := listenQMP(filepath.Join(m.dir, "qmp"))
	if err != nil {
		return "", err
	}
	defer control.close()
	program := qemu
	if m.o.Namespace != "" {
		program, args = "ip", append([]string{"netns", "exec", m.o.Namespace, qemu}, args...)
	}
	cmd := exec.CommandContext(ctx, program, append(args, "-qmp", "unix:"+control.path)...)
	cmd.WaitDelay = 5 * time.Second
	tether(cmd)
	runtime.LockOSThread() // tether says why
	defer runtime.UnlockOSThread()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	var complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = console{m}, &complaints
	m.mu.Lock()
	m.input, m.control = stdin, control
	m.mu.Unlock()
	if watchdog > 0 {
		ended := make(chan struct{})
		defer close(ended)
		go m.guard(control, time.Duration(watchdog)*slowness*time.Second, from, ended)
	}
	err = cmd.Start()
	if err == nil {
		m.mu.Lock()
		m.pid = cmd.Process.Pid // ip, which becomes QEMU, in a namespace
		m.mu.Unlock()
		err = cmd.Wait()
	}
	if st := cmd.ProcessState; st != nil {
		m.o.Log.Info("QEMU ended", "cpu_seconds", (st.UserTime() + st.SystemTime()).Seconds())
	}
	m.mu.Lock()
	m.writes, m.ofThis, m.control, m.pid = m.writes+m.ofThis, 0, nil, 0
	m.mu.Unlock()
	if ctx.Err() != nil {
		return "", errors.New("the machine was stopped")
	}
	if err != nil {
		return "", fmt.Errorf("QEMU: %w\n%s", err, complaints.String())
	}
	return control.reason(), nil
}

// opened is what /init says when it has come past opening the watchdog, or
// says why it never will.
const opened = "pikelet: "

// slowness is how much longer an emulated machine may take than a real one.
const slowness = 2

// guard is the watchdog that firmware starts before the kernel
// (docs/platform.md 2.5): a kernel under which nothing opens it in time
// is reset. QEMU has no watchdog that runs from the start, so this
// one watches the console, from a place in the output on, until stop is closed.
// Its time stands still while the guest waits for a processor of the host.
func (m *Machine) guard(control *qmp, limit time.Duration, from int, stop <-chan struct{}) {
	m.mu.Lock()
	start := m.progress
	m.mu.Unlock()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		m.mu.Lock()
		said := bytes.Contains(m.output.Bytes()[from:], []byte(opened))
		passed := m.progress.ran - start.ran + m.progress.idle - start.idle
		m.mu.Unlock()
		if said {
			return
		}
		if passed >= limit {
			m.o.Log.Info("firmware's watchdog resets the machine")
			control.reset() // a machine that has just ended needs none
			return
		}
	}
}

// console takes what the guest prints.
type console struct{ m *Machine }

func (c console) Write(p []byte) (int, error) {
	c.m.mu.Lock()
	c.m.output.Write(p)
	c.m.changed.Broadcast()
	c.m.mu.Unlock()
	if c.m.o.Console != nil {
		return c.m.o.Console.Write(p)
	}
	return len(p), nil
}

// Write types on the console.
func (m *Machine) Write(p []byte) (int, error) {
	m.mu.Lock()
	in := m.input
	m.mu.Unlock()
	if in == nil {
		return len(p), nil // before the first boot no machine listens
	}
	if _, err := in.Write(p); err != nil && !errors.Is(err, os.ErrClosed) {
		return 0, err
	}
	return len(p), nil
}

// Expect waits until the guest has printed text, behind what an earlier
// Expect found. It fails as Await does.
func (m *Machine) Expect(text string) error {
	_, err := m.ExpectAny(text)
	return err
}

// ExpectAny is Expect for the first of several texts, which it returns.
func (m *Machine) ExpectAny(texts ...string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	since := m.progress
	for {
		rest := m.output.Bytes()[m.seen:]
		for _, text := range texts {
			if i := bytes.Index(rest, []byte(text)); i >= 0 {
				m.seen += i + len(text)
				return text, nil
			}
		}
		if m.ended {
			return "", fmt.Errorf("the machine ended (%s) before printing %q", fmt.Sprint(m.err), texts)
		}
		if err := m.progress.stalled(since); err != nil {
			return "", fmt.Errorf("waiting for %q: %w", texts, err)
		}
		m.changed.Wait()
	}
}

// Output returns everything printed so far.
func (m *Machine) Output() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.output.String()
}

// Boots returns how often the firmware has started a kernel.
func (m *Machine) Boots() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boots
}
