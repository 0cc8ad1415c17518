package vm

import (
	"os/exec"
	"syscall"
)

// tether has QEMU end with us, however we end: it would go on for ever,
// unseen, on a core of its own. The kernel goes by the thread that started it
// (prctl(2), PR_SET_PDEATHSIG), so that must live as long as QEMU does.
func tether(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
