package e2e

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// tooLong is how long a program of the host may take for what it does at once:
// only one that hangs does not come to it.
const tooLong = 10 * time.Minute

// smallImage is what testdata/small.yaml makes, once newCard was called.
var smallImage *builder.Result

// pi is a virtual Pi under test.
type pi struct {
	*vm.Machine
	t    *testing.T
	card string
}

// small is what testdata/small.yaml makes, which smallImage is from then on.
func small(t *testing.T) *builder.Result {
	t.Helper()
	r := sharedBuild(t, "small.yaml")
	imageOnce.Do(func() { smallImage = r })
	return r
}

var imageOnce sync.Once

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
			t.Logf("the console said:\n%s", m.Output())
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
		p.t.Errorf("%s: it failed in the guest (%v)", command, err)
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
