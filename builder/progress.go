package builder

import "sync/atomic"

// Progress is how far a long step is.
type Progress struct {
	Step        string // what is being done
	Done, Total int64  // bytes
}

// meter counts the bytes of one step and reports them.
type meter struct {
	report func(Progress) // may be nil
	step   string
	total  int64
	done   atomic.Int64
}

// step begins a step of total bytes.
func (in *Inputs) step(name string, total int64) *meter {
	m := &meter{report: in.Progress, step: name, total: total}
	m.add(0)
	return m
}

func (m *meter) add(n int64) {
	if done := m.done.Add(n); m.report != nil {
		m.report(Progress{m.step, min(done, m.total), m.total})
	}
}

// end reports that the step is done, whatever was counted. A step that fails does
// not end.
func (m *meter) end() { m.add(m.total - m.done.Load()) }

// meteredWriter counts what is written to it, and drops it.
type meteredWriter struct{ m *meter }

func (w meteredWriter) Write(p []byte) (int, error) {
	w.m.add(int64(len(p)))
	return len(p), nil
}
