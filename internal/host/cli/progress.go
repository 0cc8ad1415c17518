package cli

import (
	"fmt"
	"io"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// progress shows how far long steps are: bars on a terminal, a line for each
// completed step otherwise, log records with --json, nothing with --quiet.
type progress struct {
	sync.Mutex
	a     *app
	bars  *mpb.Progress // nil without a terminal
	step  string
	bar   *mpb.Bar
	shown int64 // tenths
	err   io.Writer
}

func newProgress(a *app) *progress {
	p := &progress{a: a, err: a.err}
	if isTerminal(a.err) && !a.quiet && !a.json {
		p.bars = mpb.New(mpb.WithOutput(a.err), mpb.WithWidth(40))
		a.err = p.bars // lines go above the bars
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
		p.step, p.shown = now.Step, -1
		if p.bars != nil {
			p.bar = p.bars.AddBar(now.Total, mpb.PrependDecorators(decor.Name(fmt.Sprintf("%-26s", now.Step))),
				mpb.AppendDecorators(decor.Counters(decor.SizeB1024(0), "% .1f / % .1f"), decor.AverageSpeed(decor.SizeB1024(0), "  % .1f")))
		}
	}
	tenth := 10 * now.Done / now.Total
	switch {
	case p.bars != nil:
		p.bar.SetCurrent(now.Done)
	case p.a.json && tenth > p.shown:
		p.a.log.Info("progress", "step", now.Step, "done", now.Done, "total", now.Total)
	case !p.a.json && tenth == 10 && p.shown < 10:
		p.a.log.Info("step is done", "step", now.Step, "MiB", fmt.Sprintf("%.1f", float64(now.Total)/(1<<20)))
	}
	p.shown = max(p.shown, tenth)
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
	p.a.err = p.err
}

// meter implements publish.Meter.
func (a *app) meter(step string, total int64) (count registry.Progress, end func()) {
	p := newProgress(a)
	done := make(chan struct{})
	steps := make(chan int64, 64)
	go func() {
		defer close(done)
		var sum int64
		for n := range steps {
			sum += n
			p.show(builder.Progress{Step: step, Done: min(sum, total), Total: total})
		}
	}()
	return func(n int64) { steps <- n }, func() {
		close(steps)
		<-done
		p.end()
	}
}
