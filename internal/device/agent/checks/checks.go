// Package checks holds the checks of a node, one file for each subject. An upgrade
// is kept only if all of them hold.
//
// A new check is a function in the file of its subject, and a line in Run.
package checks

import (
	"context"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// state is what the checks look at.
type state struct {
	cfg      *nodeconfig.Config
	boot     node.Boot
	prepared node.Prepared
	volume   node.VolumeStatus

	// What could not be read of these.
	bootErr, preparedErr, volumeErr error
}

// read collects what the checks look at.
func read(cfg *nodeconfig.Config) state {
	s := state{cfg: cfg}
	s.boot, s.bootErr = runfiles.Boot()
	s.prepared, s.preparedErr = runfiles.Prepared()
	s.volume, s.volumeErr = runfiles.Volume()
	return s
}

// Run runs all checks, whatever the first of them says: those of every node,
// those that the image brings, and those of k3s where it runs. Those that the end
// of ctx cuts off fail.
func Run(ctx context.Context, cfg *nodeconfig.Config) []node.Check {
	s := read(cfg)
	list := []node.Check{
		stateCheck(s), configCheck(s.prepared.Config, s.inTrial()), volumeCheck(s), networkCheck(s), interfacesCheck(s),
	}
	list = append(list, ownChecks(ctx, checksDir, checkTime)...)
	if cfg.K3s.Role == "" {
		return list
	}
	list = append(list,
		result("cgroups", "version 2 with memory, cpu, cpuset and pids", cgroupProblem("/sys/fs/cgroup")),
		result("modules", "loaded", moduleProblem([]string{"overlay", "br_netfilter", "nf_conntrack", "vxlan"})),
		result("sysctls", "set", sysctlProblem()),
		result("propagation", "/ and the kubelet's directory are shared", propagationProblem()),
		result("rancher", "a filesystem containers can be laid over", rancherProblem()),
		result("route", "there is a default route", routeProblem()),
	)
	list = append(list, needsChecks(ctx, s, "/")...)
	if cfg.K3s.Role == "server" && cfg.Backup.To != "" {
		list = append(list, backupCheck(s, node.BackupFile, time.Now()))
	}
	return append(list, timeCheck(s), kubeletCheck(s), nodeCheck(ctx, s))
}

// result returns a check that holds where problem is "".
func result(name, good, problem string) node.Check {
	if problem != "" {
		return node.Check{Name: name, Says: problem}
	}
	return node.Check{Name: name, OK: true, Says: good}
}

// warning returns a check that holds, with a warning where problem is not "":
// for what the node does its work without.
func warning(name, good, problem string) node.Check {
	if problem != "" {
		return node.Check{Name: name, OK: true, Warning: true, Says: problem}
	}
	return result(name, good, "")
}

// beyond is result for what lies behind the network: where that is fine here,
// this node is not to blame.
func (s state) beyond(name, problem string) node.Check {
	c := result(name, "", problem)
	c.Outside = problem != "" && networkFine(s.cfg.Network.Interfaces)
	return c
}

func (s state) inTrial() bool { return s.bootErr == nil && s.boot.Kind == slots.Trial }

func (s state) cardless() bool { return s.bootErr == nil && s.boot.Slot == slots.Net }

// configCheck fails on the trial of an image that does not take all of the
// config, so that the node goes back to the one that does. Later it must not
// keep the node from the image that mends it: status tells of it as a problem.
func configCheck(c node.ConfigStatus, trial bool) node.Check {
	if c.Partial && trial {
		return node.Check{Name: "config", Says: "this image does not take all of the node's config: " + c.Refused +
			"; mend it and send it to the node before the next upgrade"}
	}
	return node.Check{Name: "config", OK: true, Says: "from " + c.Source}
}
