package checks

import (
	"github.com/pikelet-os/pikelet/internal/device/agent/k3s"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

func kubeletCheck(s state) node.Check {
	k := k3s.Status(s.cfg)
	if !k.Running {
		return result("kubelet", "", k.Says+"; /var/log/k3s.log says more")
	}
	return result("kubelet", k.Says, "")
}
