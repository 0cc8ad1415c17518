package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// loopSpec is the demo's image with a directory of the user's.
const loopSpec = `name: loop
release: "1"
boards: [rpi3, zero2w, rpi4, rpi5, vm]
repositories: [{url: %[1]s, keys: [%[1]s/starter.rsa.pub]}]
packages: [alpine-base, raspberrypi-bootloader, e2fsprogs]
layers: [{folder: files}]
console: root
slot-size: 128MiB
`

// loop measures what a person trying things waits for: from a file that is
// saved to the login of the image with it, by build --watch and vm run --watch.
func loop(ctx context.Context, o options, figures map[string]float64) error {
	dir := filepath.Join(o.scratch, "loop")
	motd := dir + "/files/etc/motd"
	if err := os.MkdirAll(filepath.Dir(motd), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(dir+"/image.yaml", []byte(fmt.Sprintf(loopSpec, o.starter)), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(motd, []byte("round 0\n"), 0o644); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	build, err := background(ctx, dir, o.pikelet, "build", "--watch", "--cache", "cache", "-o", "out", "image.yaml")
	if err != nil {
		return err
	}
	defer build.end(cancel)
	pi, err := background(ctx, dir, o.pikelet, "vm", "run", "--watch", "out/disk.img")
	if err != nil {
		return err
	}
	defer pi.end(cancel)
	const reached = "login reached after"
	if err := pi.wait(reached, 1); err != nil {
		return fmt.Errorf("%w\n%s", err, build)
	}
	var list []float64
	for i := range 3 {
		start := time.Now()
		if err := os.WriteFile(motd, []byte(fmt.Sprintln("round", i+1)), 0o644); err != nil {
			return err
		}
		if err := pi.wait(reached, i+2); err != nil {
			return fmt.Errorf("%w\n%s", err, build)
		}
		list = append(list, time.Since(start).Seconds())
	}
	o.log.Info("measured the time from an edit to a login", "seconds", list)
	figures["edit_to_login_seconds"] = median(list)
	return nil
}

// process is a command that goes on.
type process struct {
	cmd *exec.Cmd
	mu  sync.Mutex
	out bytes.Buffer
}

func background(ctx context.Context, dir string, args ...string) (*process, error) {
	p := &process{cmd: exec.CommandContext(ctx, args[0], args[1:]...)}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, p, p
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(os.Interrupt) }
	p.cmd.WaitDelay = 10 * time.Second
	return p, p.cmd.Start()
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *process) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// wait waits until a text was printed so many times.
func (p *process) wait(text string, times int) error {
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if strings.Count(p.String(), text) >= times {
			return nil
		}
	}
	return fmt.Errorf("%q did not come %d times:\n%s", text, times, p)
}

func (p *process) end(cancel func()) {
	cancel()
	p.cmd.Wait()
}
