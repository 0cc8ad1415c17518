package cli

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/pikelet-os/pikelet/builder"
)

// progress shows how far long steps are: bars on a terminal, a line for each
// step that is done otherwise, objects with --json, nothing with --quiet.
type progress struct {
	sync.Mutex
	say  *teller
	bars *mpb.Progress // nil without a terminal
	step string
	bar  *mpb.Bar
	told int64 // tenths
	out  io.Writer
}

func newProgress(say *teller) *progress {
	p := &progress{say: say, out: say.out}
	if f, ok := say.out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && !say.quiet && !say.json {
		p.bars = mpb.New(mpb.WithOutput(f), mpb.WithWidth(40))
		say.out = p.bars // lines go above the bars
	}
	return p
}

// show takes one report. Steps come one after the other.
func (p *progress) show(now builder.Progress) {
	p.Lock()
	defer p.Unlock()
	if now.Total <= 0 {
		return
	}
	if now.Step != p.step {
		p.step, p.told = now.Step, -1
		if p.bars != nil {
			p.bar = p.bars.AddBar(now.Total, mpb.PrependDecorators(decor.Name(fmt.Sprintf("%-26s", now.Step))),
				mpb.AppendDecorators(decor.Counters(decor.SizeB1024(0), "% .1f / % .1f"), decor.AverageSpeed(decor.SizeB1024(0), "  % .1f")))
		}
	}
	tenth := 10 * now.Done / now.Total
	switch {
	case p.bars != nil:
		p.bar.SetCurrent(now.Done)
	case p.say.json && tenth > p.told:
		p.say.object(map[string]any{"progress": map[string]any{"step": now.Step, "done": now.Done, "total": now.Total}})
	case tenth == 10 && p.told < 10:
		p.say.line(fmt.Sprintf("%s: %.1f MiB", now.Step, float64(now.Total)/(1<<20)))
	}
	p.told = max(p.told, tenth)
}

// end leaves the terminal to others: bars that are not full stay as they are.
func (p *progress) end() {
	if p.bars == nil {
		return
	}
	if p.bar != nil {
		p.bar.Abort(false)
	}
	p.bars.Wait()
	p.say.out = p.out
}
