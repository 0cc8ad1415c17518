package checks

import (
	"context"
	"errors"
	"fmt"

	"github.com/pikelet-os/pikelet/internal/device/agent/apiserver"
	"github.com/pikelet-os/pikelet/internal/device/agent/sysfs"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

func nodeCheck(ctx context.Context, s state) node.Check {
	err := nodeReady(ctx, apiserver.KubeletConfig, s.prepared.Hostname, sysfs.Read("/proc/sys/kernel/random/boot_id"))
	switch {
	case err == nil:
		return result("node", "the API server sees it as Ready", "")
	case errors.Is(err, apiserver.ErrUnreachable) && s.cfg.K3s.Role != "server":
		return s.beyond("node", err.Error())
	}
	return result("node", "", err.Error())
}

// nodeReady asks the API server whether it sees this node, as it runs now, as
// Ready. The error is apiserver.ErrUnreachable where it does not answer.
func nodeReady(ctx context.Context, config, name, bootID string) error {
	c, err := apiserver.Open(config)
	if err != nil {
		return err
	}
	n, err := c.Node(ctx, name)
	switch {
	case errors.Is(err, apiserver.ErrNotFound):
		return fmt.Errorf("the API server knows no node %s yet", name)
	case err != nil:
		return err
	case n.Status.NodeInfo.BootID != bootID:
		return errors.New("the API server still sees the boot before this one")
	}
	ready, has := n.Condition("Ready")
	switch {
	case !has:
		return errors.New("the API server reports no condition Ready of this node")
	case ready.Status != "True":
		return fmt.Errorf("the API server sees this node as not Ready: %s", apiserver.Clean(ready.Reason+" "+ready.Message))
	}
	return nil
}
