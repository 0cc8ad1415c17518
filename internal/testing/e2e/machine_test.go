package e2e

import (
	"context"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// tooLong is how long a program of the host may take for what it does at once:
// only one that hangs does not come to it.
const tooLong = 10 * time.Minute

// pi is a virtual Pi under test.
type pi struct {
	*vm.Machine
	t    *testing.T
	card string
}

// small returns what testdata/small.yaml makes.
func small(t *testing.T) *builder.Result {
	t.Helper()
	return sharedBuild(t, "small.yaml")
}

// boot starts a virtual Pi from a card.
func boot(t *testing.T, card string, change ...func(*vm.Options)) *pi {
	t.Helper()
	short(t)
	o := vm.Options{Image: card, Machine: "virt", Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, c := range change {
		c(&o)
	}
	m, err := vm.Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	p := &pi{Machine: m, t: t, card: card}
	t.Cleanup(func() {
		m.Close()
		if t.Failed() {
			t.Logf("the console shows:\n%s", m.Output())
		}
	})
	return p
}

// expect waits for text on the console.
func (p *pi) expect(texts ...string) {
	p.t.Helper()
	for _, text := range texts {
		if err := p.Expect(text); err != nil {
			p.t.Fatal(err)
		}
	}
}

// prompt waits for the root shell of the test image.
func (p *pi) prompt() { p.t.Helper(); p.expect(":~# ") }

// run types a command at the prompt and expects texts in its answer.
func (p *pi) run(command string, texts ...string) {
	p.t.Helper()
	if _, err := io.WriteString(p, command+"\n"); err != nil {
		p.t.Fatal(err)
	}
	p.expect(texts...)
}

// works runs a command in the guest and fails the test if its exit status is
// not 0. What it waits for does not stand in what is typed.
func (p *pi) works(command string) {
	p.t.Helper()
	p.run("if { " + command + "; }; then echo it''=worked; else echo it''=failed; fi")
	if got, err := p.ExpectAny("it=worked", "it=failed"); err != nil || got != "it=worked" {
		p.t.Errorf("%s: failed in the guest (%v)", command, err)
	}
}

// unplug pulls the plug when all that was written is on the card.
func (p *pi) unplug() {
	p.t.Helper()
	p.works("sync")
	p.Close()
}

// await waits until done reports true.
func (p *pi) await(what string, done func() bool) {
	p.t.Helper()
	if err := p.Await(what, done); err != nil {
		p.t.Fatal(err)
	}
}

// off powers the machine off and waits for its end.
func (p *pi) off() {
	p.t.Helper()
	p.run("poweroff")
	if err := p.Wait(); err != nil {
		p.t.Fatal(err)
	}
}

// pikelet runs the command under test and returns what it printed.
func pikelet(args ...string) (string, error) {
	out, err := exec.Command("../../../build/pikelet", args...).CombinedOutput()
	return string(out), err
}

// containsAll reports whether a text contains each of some parts.
func containsAll(text string, parts ...string) bool {
	return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(text, part) })
}

// writeFile writes a file, and the directories it is in.
func writeFile(t *testing.T, name, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// failingCheck returns a directory for a layer whose check of the node fails.
func failingCheck(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "usr/lib/pikelet/checks.d/fan"), "#!/bin/sh\necho the fan stands still\nexit 1\n", 0o755)
	return dir
}
