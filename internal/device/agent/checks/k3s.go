package checks

import (
	"github.com/pikelet-os/pikelet/internal/device/agent/k3s"
	"github.com/pikelet-os/pikelet/internal/device/agent/sysfs"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

func kubeletCheck(s state) node.Check {
	k := k3s.Status(s.cfg)
	if !k.Running {
		why := k.Says
		if notice := sysfs.Read(k3s.WaitingFile); notice != "" {
			why += "; " + notice
		}
		if last := k3s.LastErrors(k3s.LogFile); last != "" {
			why += "; k3s logged last: " + last
		}
		return result("kubelet", "", why+"; "+k3s.LogFile+" has more")
	}
	return result("kubelet", k.Says, "")
}
