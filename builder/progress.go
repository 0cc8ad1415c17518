package builder

import (
	"context"
	"io"
	"sync/atomic"
)

// Progress is how far a long step is.
type Progress struct {
	Step        string // what is being done
	Done, Total int64  // bytes
}

// meter counts the bytes of one step, tells of them, and stops the step when
// the build is given up.
type meter struct {
	ctx   context.Context
	tell  func(Progress)
	step  string
	total int64
	done  atomic.Int64
}

// step begins a step of total bytes.
func (in *Inputs) step(ctx context.Context, name string, total int64) *meter {
	m := &meter{ctx: ctx, tell: in.Progress, step: name, total: total}
	m.add(0)
	return m
}

func (m *meter) add(n int64) {
	if done := m.done.Add(n); m.tell != nil {
		m.tell(Progress{m.step, min(done, m.total), m.total})
	}
}

// end says that the step is done, whatever was counted. A step that fails does
// not end.
func (m *meter) end() { m.add(m.total - m.done.Load()) }

type meteredWriter struct {
	io.Writer
	m *meter
}

func (w meteredWriter) Write(p []byte) (int, error) {
	if err := w.m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.Writer.Write(p)
	w.m.add(int64(n))
	return n, err
}
