package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// processorTime returns what a process has used, as the scheduler counts it
// (the kernel's Documentation/scheduler/sched-stats.rst, /proc/PID/schedstat).
// Threads that have ended are not in it.
func processorTime(pid int) (u used, known bool) {
	if pid == 0 {
		return used{}, true
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return used{}, false
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has just ended
		}
		var ran, queued time.Duration
		if _, err := fmt.Sscan(string(b), &ran, &queued); err != nil {
			return used{}, false
		}
		u.ran += ran
		u.queued += queued
	}
	return u, true
}
